#include "launch/job.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "comm/agreement.h"
#include "launch/logging.h"
#include "launch/progress_bar.h"
#include "spdlog/spdlog.h"

namespace intermix {
namespace {

// How long a clean stop may take before the process ends itself.
constexpr absl::Duration kStopGrace = absl::Seconds(20);

// Threads for this rank when nothing was asked for: the CPUs that it is bound to, or, where ranks
// of one host are not bound and would all take every CPU, this rank's share of them.
int FairThreads(const MpiSession& session) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0) return 1;
  const int available = CPU_COUNT(&cpus);
  const bool bound = available < sysconf(_SC_NPROCESSORS_ONLN);
  return bound ? available : std::max(1, available / session.local_size());
}

void LogKvCache(Rank& rank, DType dtype) {
  const ModelRunner& runner = rank.runner();
  const int64_t tokens = int64_t{runner.num_kv_blocks()} * runner.block_size();
  spdlog::info("the KV cache of each dp group holds {} tokens: {} MB of {} per rank", tokens,
               rank.kv_bytes() >> 20, dtype == DType::kI8 ? "int8" : "bf16");
}

}  // namespace

void AddJobOptions(CLI::App& command, JobOptions& options) {
  RankOptions& rank = options.rank;
  command.add_option("--model", rank.model_directory, "Checkpoint: quantised, or Hugging Face")
      ->required();
  command.add_option("--tp", rank.tp, "Tensor parallel ranks (0: all)")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--ep", rank.ep, "Expert parallel groups (0: as many as divide the experts)")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--device", rank.device, "cpu, cuda, or reference (scalar and slow)")
      ->capture_default_str();
  command
      .add_option("--threads", rank.num_threads, "Threads of this rank (0: its CPUs, or its share)")
      ->check(CLI::NonNegativeNumber);
  command.add_flag("--pin-threads", rank.pin_threads, "Bind each thread to a CPU");
  command.add_option("--max-context", rank.max_context, "Tokens of a sequence (0: the model's)")
      ->check(CLI::NonNegativeNumber);
  command
      .add_option("--max-batch-tokens", options.engine.max_batch_tokens,
                  "Tokens of one step at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      .add_option("--kv-memory", rank.kv_memory_bytes,
                  "Bytes of KV cache per rank, e.g. 2GB (0: automatic)")
      ->transform(CLI::AsSizeValue(false));
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
  return SetUpLogging(options.log_level, size_ > 1 ? index_ : -1, options.log_format == "json");
}

absl::Status Job::Load(const JobOptions& options) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      absl::NotFoundError(absl::StrCat("--model ", model_directory_, " is not a directory"));
  if (std::filesystem::is_directory(model_directory_)) tokenizer = LoadTokenizer(model_directory_);
  if (absl::Status s = AgreeOnStatus(*world_, tokenizer.status()); !s.ok()) return s;
  tokenizer_ = *std::move(tokenizer);
  const absl::StatusOr<QuantSpec> quant = options.quant.Spec();
  if (!quant.ok()) return quant.status();  // the same on every rank
  RankOptions rank_options = options.rank;
  rank_options.quant = *quant;
  if (rank_options.num_threads == 0) rank_options.num_threads = FairThreads(*session_);
  rank_options.local_rank = session_->local_rank();
  // Rank 0 speaks for all: each has about as much to load.
  ProgressBar bar("loading rank 0", ProgressBar::Unit::kBytes, stderr, absl::Seconds(1));
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
