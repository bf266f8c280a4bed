#include "launch/survey_rank.h"

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/host_memory.h"
#include "kernels/cpu/isa.h"
#include "launch/probe_host.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/inspect_model_files.h"
#include "runtime/checkpoint/model_directory.h"
#include "runtime/checkpoint/quantization_config.h"
#include "runtime/engine/device.h"
#include "runtime/engine/kv_sizing.h"
#include "runtime/engine/memory_need.h"

namespace intermix {
namespace {

// What all ranks must agree on. The model's directory may have another name on another host.
std::string OptionsText(const RankOptions& options) {
  return absl::StrCat(
      "--tp ", options.tp, " --ep ", options.ep, " --device ", options.device, " --max-context ",
      options.max_context, " --kv-memory ", options.kv_memory_bytes, " --kv-fraction ",
      options.kv_fraction, " --kv-dtype ", std::string(Name(options.kv_dtype)), " --dispatch ",
      static_cast<int>(options.dispatch), " graphs ", options.cuda_graphs ? "on, " : "off, ",
      QuantizationConfig{.spec = options.quant}.Description());
}

class Survey {
 public:
  Survey(const RankOptions& options, int rank, int world)
      : options_(options), rank_(rank), world_(world) {}

  RankFacts Run() {
    ProbeHost(facts_);
    facts_.build = absl::StrCat(INTERMIX_VERSION, " build ", BuildId().substr(0, 12));
    facts_.options = OptionsText(options_);
    facts_.device = options_.device;
    facts_.threads = options_.num_threads;
    facts_.pin_threads = options_.pin_threads;
    SurveyFiles();
    SurveyDevice();
    return std::move(facts_);
  }

 private:
  // Whether it is OK.
  bool Note(const absl::Status& status) {
    if (!status.ok()) facts_.problems.emplace_back(status.message());
    return status.ok();
  }

  void SurveyFiles() {
    std::error_code error;
    if (!std::filesystem::is_directory(options_.model_directory, error)) {
      facts_.problems.push_back(
          absl::StrCat("--model ", options_.model_directory, " is not a directory"));
      return;
    }
    ModelFiles files = InspectModelFiles(options_.model_directory);
    facts_.fingerprint = std::move(files.fingerprint);
    facts_.problems = std::move(files.problems);
    const absl::StatusOr<ModelDirectory> model = ReadModelDirectory(options_.model_directory);
    if (!model.ok()) {
      if (facts_.problems.empty()) Note(model.status());
      return;
    }
    if (facts_.problems.empty()) {
      Note(OpenCheckpoint(options_.model_directory, options_.quant).status());
    }
    SurveyModel(model->config, model->quantization ? model->quantization->spec : options_.quant);
  }

  void SurveyModel(const ModelConfig& config, const QuantSpec& spec) {
    const absl::StatusOr<int32_t> max_context = DecideMaxContext(options_.max_context, config);
    Note(max_context.status());
    const ShardDims dims = config.shard_dims();
    for (std::string& problem :
         LayoutProblems(dims, world_, options_.tp, options_.ep, options_.cut)) {
      facts_.problems.push_back(std::move(problem));
    }
    const absl::StatusOr<ParallelLayout> layout = ParallelLayout::Make(
        world_, options_.tp, options_.ep, static_cast<int>(config.num_local_experts), options_.cut);
    if (!layout.ok()) return;
    const absl::StatusOr<ShardPlan> plan = MakeShardPlan(dims, *layout, rank_);
    if (!plan.ok() || !Note(CheckModel(options_, config, *plan))) return;
    const int64_t token_bytes = KvBytesPerToken(config, *plan, options_.kv_dtype);
    facts_.weight_bytes = WeightBytes(config, spec, *plan);
    facts_.kv_bytes = options_.kv_memory_bytes;
    if (options_.kv_memory_bytes == 0) {
      facts_.kv_bytes = options_.block_size * token_bytes;
      facts_.context_bytes = max_context.ok() ? *max_context * token_bytes : 0;
    }
  }

  void SurveyDevice() {
    if (options_.device == "cpu") {  // the threads can wait
      facts_.free_bytes = AvailableHostBytes();
      Note(IsaFromEnvironment().status());
      return;
    }
    const absl::StatusOr<std::unique_ptr<Backend>> backend = OpenDevice(options_, rank_);
    if (Note(backend.status())) facts_.free_bytes = (*backend)->free_bytes();
  }

  const RankOptions& options_;
  const int rank_;
  const int world_;
  RankFacts facts_;
};

}  // namespace

RankFacts SurveyRank(const RankOptions& options, int rank, int world) {
  return Survey(options, rank, world).Run();
}

}  // namespace intermix
