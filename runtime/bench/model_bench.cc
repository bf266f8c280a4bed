#include "runtime/bench/model_bench.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/agreement.h"
#include "comm/parallel_groups.h"
#include "comm/watchdog.h"
#include "runtime/bench/profiled_backend.h"
#include "runtime/bench/random_checkpoint.h"
#include "runtime/bench/random_weight.h"
#include "runtime/engine/device.h"
#include "runtime/engine/memory_need.h"
#include "runtime/engine/step_executor.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/transformer.h"

namespace intermix {
namespace {

constexpr int32_t kBlockSize = 16;
constexpr double kSmallestShare = 0.01;  // of a step's time; ops below it are "others"

// Prompt or generation, step after step; the same steps come again after the last.
struct Phase {
  std::string name;
  int64_t tokens_per_step = 0;
  std::vector<Batch> steps;
};

class ModelBench {
 public:
  ModelBench(const ModelBenchOptions& options, Backend& backend, TurnTimer& timer)
      : options_(options), timer_(timer), profiled_(backend, timer.clock()), backend_(backend) {}

  absl::Status Load(std::unique_ptr<Communicator> world) {
    const ModelConfig& config = options_.config;
    const absl::StatusOr<ParallelLayout> layout =
        ParallelLayout::Make(world->size(), options_.tp, options_.ep,
                             static_cast<int>(config.num_local_experts), options_.cut);
    if (!layout.ok()) return layout.status();
    dp_ = layout->dp;
    const absl::StatusOr<ShardPlan> plan =
        MakeShardPlan(config.shard_dims(), *layout, world->rank());
    if (!plan.ok()) return plan.status();
    const absl::Status memory = CheckMemory(*plan);
    if (absl::Status s = AgreeOnStatus(*world, memory); !s.ok()) return s;
    absl::StatusOr<std::unique_ptr<Communicator>> devices =
        ConnectDevices(backend_, watchdog_, *world);
    if (!devices.ok()) return devices.status();
    groups_ = MakeParallelGroups(*layout, std::move(world), *std::move(devices));
    const RandomCheckpoint checkpoint(config, options_.quant);
    absl::StatusOr<std::unique_ptr<Transformer>> model = Transformer::Load(
        checkpoint, groups_, backend_, MaxPositions(), [this](int64_t done, int64_t total) {
          Say(absl::StrCat("making layer ", done, " of ", total));
        });
    if (!model.ok()) return model.status();
    model_ = *std::move(model);
    cache_ = std::make_unique<KvCache>(KvCacheShape{.num_layers = config.num_hidden_layers,
                                                    .num_blocks = NumBlocks(),
                                                    .num_kv_heads = plan->kv_heads.size(),
                                                    .block_size = kBlockSize,
                                                    .head_dim = config.head_dim,
                                                    .dtype = options_.kv_dtype},
                                       backend_);
    return absl::OkStatus();
  }

  std::vector<Table> Run() {
    if (options_.prompt > 0) Measure(PromptPhase());
    for (const int32_t sequences : options_.batches) Measure(GeneratePhase(sequences));
    return {std::move(model_table_), std::move(ops_table_)};
  }

 private:
  static int64_t BlocksFor(int64_t positions) { return (positions + kBlockSize - 1) / kBlockSize; }
  // Of the longest phase, in each dp group.
  int64_t NumBlocks() const {
    const int64_t sequences = *std::max_element(options_.batches.begin(), options_.batches.end());
    return std::max((sequences + dp_ - 1) / dp_ * BlocksFor(options_.context + options_.generate),
                    BlocksFor(options_.prompt));
  }

  // Whether this rank's shard and its cache fit into its device's memory, which CPUs share.
  absl::Status CheckMemory(const ShardPlan& plan) const {
    const int64_t need =
        WeightBytes(options_.config, options_.quant, plan) +
        NumBlocks() * kBlockSize * KvBytesPerToken(options_.config, plan, options_.kv_dtype);
    const int sharing = backend_.device() == Device::kCpu ? options_.local_size : 1;
    const int64_t free = backend_.free_bytes() / sharing;
    if (need <= free) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("the model and its cache need ", need >> 20, " MiB of memory and ", free >> 20,
                     " MiB are free; use --layers, or a smaller --batch or --context"));
  }

  int64_t MaxPositions() const {
    return std::max(options_.prompt, options_.context + options_.generate);
  }
  void Say(const std::string& what) const {
    if (options_.progress) options_.progress(what);
  }

  int32_t NextToken() {
    uint64_t bits = 0;
    FillRandomBits(++seed_, &bits, 1);
    return static_cast<int32_t>(bits % static_cast<uint64_t>(options_.config.vocab_size));
  }

  SequenceChunk Chunk(int32_t sequence, int32_t start, int32_t count) {
    SequenceChunk chunk{.dp_rank = sequence % dp_, .start = start, .logits = LogitsWanted::kLast};
    for (int32_t i = 0; i < count; ++i) chunk.tokens.push_back(NextToken());
    // A prompt is alone in its group; only sequences that generate have others beside them.
    const auto blocks = static_cast<int32_t>(BlocksFor(options_.context + options_.generate));
    chunk.blocks.resize(static_cast<size_t>(BlocksFor(start + count)));
    std::iota(chunk.blocks.begin(), chunk.blocks.end(), sequence / dp_ * blocks);
    return chunk;
  }

  // A prompt in each dp group.
  Phase PromptPhase() {
    Batch batch;
    for (int group = 0; group < dp_; ++group) {
      batch.chunks.push_back(Chunk(group, 0, options_.prompt));
    }
    return {.name = absl::StrCat("prompt ", options_.prompt),
            .tokens_per_step = int64_t{dp_} * options_.prompt,
            .steps = {batch}};
  }

  // The cache before `context` holds zeros, or what another phase left: attention reads it all the
  // same.
  Phase GeneratePhase(int32_t sequences) {
    Phase phase{.name = absl::StrCat("generate, batch ", sequences), .tokens_per_step = sequences};
    for (int32_t i = 0; i < options_.generate; ++i) {
      Batch batch{.likeliest = 1};  // as the engine asks for greedy requests
      for (int32_t s = 0; s < sequences; ++s) {
        batch.chunks.push_back(Chunk(s, options_.context + i, 1));
      }
      phase.steps.push_back(std::move(batch));
    }
    return phase;
  }

  void Measure(const Phase& phase) {
    Say(phase.name);
    StepExecutor executor(*model_, *cache_, groups_, backend_, {});
    const auto run = [&] {
      for (const Batch& step : phase.steps) executor.Run(step);
    };
    StepExecutor observed(*model_, *cache_, groups_, profiled_, {.cuda_graphs = false});
    const auto observe = [&] {
      profiled_.Clear();
      for (const Batch& step : phase.steps) observed.Run(step);
    };
    observe();  // memory is touched for the first time
    observe();
    const Work work = profiled_.total_work();
    AddOps(phase);
    AddModel(phase, work, timer_.Measure(work, run));
  }

  void AddModel(const Phase& phase, const Work& work, const Measurement& m) {
    const auto steps = static_cast<double>(phase.steps.size());
    const auto tokens = static_cast<double>(phase.tokens_per_step) * steps;
    std::vector<Cell> row = {phase.name,
                             tokens / m.seconds,
                             100.0 * m.spread,
                             1e3 * m.seconds / steps,
                             1e-12 * work.int8_ops / m.seconds,
                             1e-9 * work.bytes / m.seconds};
    for (const double fraction : m.fractions) row.emplace_back(Percent(fraction));
    model_table_.rows.push_back(std::move(row));
  }

  static double PerSecond(double amount, const OpProfile& op) {
    return amount > 0.0 ? amount / op.seconds : std::numeric_limits<double>::quiet_NaN();
  }
  static double Percent(double fraction) {
    return fraction > 0.0 ? 100.0 * fraction : std::numeric_limits<double>::quiet_NaN();
  }

  void AddOps(const Phase& phase) {
    std::vector<std::pair<std::string, OpProfile>> ops(profiled_.ops().begin(),
                                                       profiled_.ops().end());
    std::sort(ops.begin(), ops.end(),
              [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
    double total = 0.0;
    for (const auto& [name, op] : ops) total += op.seconds;
    const auto steps = static_cast<double>(phase.steps.size());
    const auto add = [&](const std::string& name, const OpProfile& op) {
      ops_table_.rows.push_back({phase.name, name, static_cast<double>(op.calls) / steps,
                                 1e3 * op.seconds / steps, 100.0 * op.seconds / total,
                                 PerSecond(1e-12 * (op.work.int8_ops + op.work.float_ops), op),
                                 PerSecond(1e-9 * op.work.bytes, op)});
    };
    OpProfile others;
    for (const auto& [name, op] : ops) {
      if (op.seconds >= kSmallestShare * total) {
        add(name, op);
      } else {
        others.calls += op.calls;
        others.seconds += op.seconds;
      }
    }
    add("others", others);
  }

  const ModelBenchOptions& options_;
  TurnTimer& timer_;
  ProfiledBackend profiled_;
  Backend& backend_;
  Watchdog watchdog_{{.who = "bench"}};
  ParallelGroups groups_;
  int32_t dp_ = 1;
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<KvCache> cache_;
  uint64_t seed_ = 0;
  Table model_table_{.title = "model",
                     .columns = {"phase", "tokens/s", "spread %", "ms/step", "int8 TOPS", "GB/s",
                                 "% of int8", "% of float", "% of memory"}};
  Table ops_table_{
      .title = "ops",
      .columns = {"phase", "op", "calls/step", "ms/step", "% of time", "TOPS", "GB/s"}};
};

absl::Status Check(const ModelBenchOptions& options) {
  if (options.batches.empty() || options.generate < 1) {
    return absl::InvalidArgumentError("give at least one batch and one token to generate");
  }
  const int64_t longest = std::max(options.prompt, options.context + options.generate);
  if (longest > options.config.max_position_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat("the model's context is ",
                                                   options.config.max_position_embeddings,
                                                   " tokens, too short for ", longest));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Table>> BenchModel(const ModelBenchOptions& options, Backend& backend,
                                              std::unique_ptr<Communicator> world,
                                              TurnTimer& timer) {
  if (absl::Status s = Check(options); !s.ok()) return s;
  ModelBench bench(options, backend, timer);
  if (absl::Status s = bench.Load(std::move(world)); !s.ok()) return s;
  return bench.Run();
}

}  // namespace intermix
