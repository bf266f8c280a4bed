#include "launch/job.h"

#include <cstdio>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/agreement.h"
#include "launch/logging.h"
#include "launch/number_checks.h"
#include "launch/preflight.h"
#include "launch/progress_bar.h"
#include "launch/survey_rank.h"
#include "spdlog/spdlog.h"

namespace intermix {
namespace {

// How long a clean stop may take before the process ends itself.
constexpr absl::Duration kStopGrace = absl::Seconds(20);

void LogKvCache(Rank& rank, DType dtype) {
  const ModelRunner& runner = rank.runner();
  const int64_t tokens = int64_t{runner.num_kv_blocks()} * runner.block_size();
  spdlog::info("the KV cache of each dp group holds {} tokens: {} MB of {} per rank", tokens,
               rank.kv_bytes() >> 20, dtype == DType::kI8 ? "int8" : "bf16");
}

}  // namespace

void PlaceRank(const MpiSession& session, RankOptions& rank) {
  rank.local_rank = session.local_rank();
  rank.local_size = session.local_size();
  rank.cut = rank.device == "cuda" ? 1 : session.ranks_per_host();
}

void AddLayoutOptions(CLI::App& command, RankOptions& rank) {
  command.add_option("--tp", rank.tp, "Tensor parallel ranks (0: all)")->check(kNonNegative);
  command
      .add_option("--ep", rank.ep, "Expert parallel groups (0: one per host; of GPUs, one each)")
      ->check(kNonNegative);
}

void AddJobOptions(CLI::App& command, JobOptions& options) {
  RankOptions& rank = options.rank;
  command.add_option("--model", rank.model_directory, "Checkpoint: quantised, or Hugging Face")
      ->required();
  AddLayoutOptions(command, rank);
  command.add_option("--device", rank.device, "cpu, cuda, or reference (scalar and slow)")
      ->capture_default_str();
  command
      .add_option("--threads", rank.num_threads, "Threads of this rank (0: its CPUs, or its share)")
      ->check(kNonNegative);
  command.add_flag("--pin-threads", rank.pin_threads, "Bind the threads that help to a CPU each");
  command.add_option("--max-context", rank.max_context, "Tokens of a sequence (0: the model's)")
      ->check(kNonNegative);
  command
      .add_option("--max-batch-tokens", options.engine.max_batch_tokens,
                  "Tokens of one step at most")
      ->check(kPositive)
      ->capture_default_str();
  command
      .add_option("--kv-memory", rank.kv_memory_bytes,
                  "Bytes of KV cache per rank, e.g. 2GB (0: automatic)")
      ->transform(CLI::AsSizeValue(false));
  command
      .add_option("--kv-fraction", rank.kv_fraction,
                  "In place of --kv-memory: a part of the memory that is free after loading")
      ->check(CLI::Range(0.01, 0.95))
      ->excludes("--kv-memory");
  command
      .add_option_function<std::string>(
          "--dispatch",
          [&rank](const std::string& name) {
            rank.dispatch = name == "all-to-all"   ? RankOptions::Dispatch::kAllToAll
                            : name == "replicated" ? RankOptions::Dispatch::kReplicated
                                                   : RankOptions::Dispatch::kAuto;
          },
          "How tokens reach experts on other ranks")
      ->check(CLI::IsMember({"auto", "all-to-all", "replicated"}))
      ->default_str("auto");
  command.add_flag("!--no-cuda-graphs", rank.cuda_graphs,
                   "Start every kernel of a decode step by itself");
  AddQuantOptions(command, options.quant);
  AddKvDTypeOption(command, rank.kv_dtype);
  command.add_option("--log-level", options.log_level, "trace, debug, info, warning, error, off")
      ->capture_default_str();
  command.add_option("--log-format", options.log_format, "text, or json: an object for each line")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
}

Job::Job() = default;

absl::Status Job::Join(const JobOptions& options) {
  session_ = std::make_unique<MpiSession>();
  world_ = session_->World();
  index_ = world_->rank();
  size_ = world_->size();
  model_directory_ = options.rank.model_directory;
  signals_.Start(kStopGrace);
  return SetUpLogging(options.log_level, log_rank(), options.log_format == "json");
}

absl::Status Job::Check(const JobOptions& options, const absl::Status& own) {
  rank_options_ = options.rank;
  PlaceRank(*session_, rank_options_);
  const absl::StatusOr<QuantSpec> quant = options.quant.Spec();
  if (quant.ok()) rank_options_.quant = *quant;

  RankFacts facts = SurveyRank(rank_options_, index_, size_);
  const auto note = [&facts](const absl::Status& status) {
    if (!status.ok()) facts.problems.emplace_back(status.message());
  };
  note(quant.status());
  note(own);
  if (!facts.fingerprint.empty()) {  // else it is known already what cannot be read
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(model_directory_);
    note(tokenizer.status());
    if (tokenizer.ok()) tokenizer_ = *std::move(tokenizer);
  }
  std::vector<RankFacts> ranks;
  for (const std::string& json : GatherTexts(*world_, facts.ToJson())) {
    ranks.push_back(RankFacts::FromJson(json));
  }
  const Verdict verdict = Judge(ranks);
  if (first()) {
    for (const std::string& warning : verdict.warnings) spdlog::warn("{}", warning);
  }
  if (rank_options_.num_threads == 0) rank_options_.num_threads = FairThreads(ranks, index_);
  return verdict.status();
}

absl::Status Job::Load() {
  // Rank 0 speaks for all: each has about as much to load.
  ProgressBar bar("loading rank 0", ProgressBar::Unit::kBytes, stderr, absl::Seconds(1));
  RankOptions rank_options = rank_options_;
  if (first()) {
    rank_options.load_progress = [&bar](int64_t done, int64_t total) { bar.Update(done, total); };
  }
  absl::StatusOr<std::unique_ptr<Rank>> rank = Rank::Create(rank_options, std::move(world_));
  if (!rank.ok()) return rank.status();
  rank_ = *std::move(rank);
  if (first()) LogKvCache(*rank_, rank_options.kv_dtype);
  return absl::OkStatus();
}

std::string Job::model_name() const {
  const std::filesystem::path path = std::filesystem::path(model_directory_).lexically_normal();
  return path.has_filename() ? path.filename() : path.parent_path().filename();
}

int Job::Refuse(const absl::Status& status) const {
  if (first()) std::fprintf(stderr, "intermix: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace intermix
