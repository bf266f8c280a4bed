#include "launch/bench.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/parallel_layout.h"
#include "comm/sharding.h"
#include "kernels/core/thread_pool.h"
#include "runtime/bench/kernel_bench.h"
#include "runtime/bench/limits.h"
#include "runtime/bench/model_bench.h"
#include "runtime/bench/model_presets.h"
#include "runtime/bench/peak_bench.h"
#include "runtime/engine/device.h"
#include "runtime/engine/memory_need.h"

namespace intermix {
namespace {

// One line on stderr that says what is being measured; overwritten on a terminal.
void Say(const std::string& what) {
  const bool terminal = isatty(STDERR_FILENO) == 1;
  std::fprintf(stderr, terminal ? "\r\033[Kbench: %s" : "bench: %s\n", what.c_str());
  std::fflush(stderr);
}

TurnOptions TurnsOf(const BenchOptions& options) {
  TurnOptions turns{.turns = options.turns};
  if (options.clock == "cpu") {
    const int threads = ThreadPool({.num_threads = options.rank.num_threads}).num_threads();
    turns.clock = [threads] { return CpuSeconds() / threads; };
  }
  return turns;
}

// Opens the device and measures on it.
template <typename F>
BenchTables OnDevice(const BenchOptions& options, const F& measure) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = OpenDevice(options.rank, 0);
  if (!backend.ok()) return backend.status();
  absl::StatusOr<std::vector<Limit>> limits = LimitsOf(options.rank);
  if (!limits.ok()) return limits.status();
  TurnTimer timer(
      *std::move(limits), [&] { (*backend)->Synchronize(); }, TurnsOf(options));
  BenchTables tables = measure(**backend, timer);
  if (!tables.ok()) return tables;
  Say("limits");
  std::vector<Table> all = BenchLimits(timer);
  for (Table& table : *tables) all.push_back(std::move(table));
  return all;
}

// Whether the whole model, and a cache for the longest measurement, fit into the device's memory.
absl::Status CheckMemory(const BenchOptions& options, const ModelConfig& config,
                         const QuantSpec& quant, const Backend& backend) {
  const absl::StatusOr<ShardPlan> plan = MakeShardPlan(config.shard_dims(), ParallelLayout(), 0);
  if (!plan.ok()) return plan.status();
  int64_t sequences = 1;
  for (const int64_t batch : options.batches) sequences = std::max(sequences, batch);
  const int64_t length = std::max<int64_t>(options.prompt, options.context + options.generate);
  const int64_t need = WeightBytes(config, quant, *plan) +
                       sequences * length * KvBytesPerToken(config, *plan, options.rank.kv_dtype);
  const int64_t free = backend.free_bytes();
  if (need <= free) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the model and its cache need ", need >> 20, " MiB of memory and ", free >> 20,
                   " MiB are free; use --layers, or a smaller --batch or --context"));
}

}  // namespace

BenchTables BenchPeakCommand(const BenchOptions& options) {
  Say("limits");
  absl::StatusOr<std::vector<Limit>> limits = AllLimitsOf(options.rank);
  if (!limits.ok()) return limits.status();
  TurnTimer timer(*std::move(limits), nullptr, TurnsOf(options));
  return BenchLimits(timer);
}

BenchTables BenchKernelsCommand(const BenchOptions& options) {
  const absl::StatusOr<ModelConfig> config = BenchModelConfig(options.config, 0);
  if (!config.ok()) return config.status();
  const std::vector<KernelCase> cases = KernelCases({.config = *config,
                                                     .tokens = options.tokens,
                                                     .contexts = options.contexts,
                                                     .kv_dtype = options.rank.kv_dtype});
  return OnDevice(options, [&](Backend& backend, TurnTimer& timer) {
    return BenchTables(BenchKernels(cases, options.filter, backend, timer,
                                    [](size_t done, size_t total, const std::string& what) {
                                      Say(absl::StrCat(done + 1, "/", total, " ", what));
                                    }));
  });
}

BenchTables BenchModelCommand(const BenchOptions& options) {
  const absl::StatusOr<ModelConfig> config = BenchModelConfig(options.config, options.layers);
  if (!config.ok()) return config.status();
  const absl::StatusOr<QuantSpec> quant = options.quant.Spec();
  if (!quant.ok()) return quant.status();
  return OnDevice(options, [&](Backend& backend, TurnTimer& timer) -> BenchTables {
    if (absl::Status s = CheckMemory(options, *config, *quant, backend); !s.ok()) return s;
    return BenchModel({.config = *config,
                       .quant = *quant,
                       .prompt = options.prompt,
                       .generate = options.generate,
                       .batches = options.batches,
                       .context = options.context,
                       .kv_dtype = options.rank.kv_dtype,
                       .progress = &Say},
                      backend, timer);
  });
}

}  // namespace intermix
