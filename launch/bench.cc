#include "launch/bench.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/agreement.h"
#include "comm/mpi_communicator.h"
#include "comm/self_communicator.h"
#include "kernels/core/thread_pool.h"
#include "launch/job.h"
#include "runtime/bench/checkpoint_bench.h"
#include "runtime/bench/engine_bench.h"
#include "runtime/bench/kernel_bench.h"
#include "runtime/bench/limits.h"
#include "runtime/bench/model_bench.h"
#include "runtime/bench/model_presets.h"
#include "runtime/bench/peak_bench.h"
#include "runtime/engine/device.h"

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

// Opens the devices of `world` and measures on them.
template <typename F>
BenchTables OnDevice(const BenchOptions& options, Communicator& world, const F& measure) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = OpenDevice(options.rank, world.rank());
  if (absl::Status s = AgreeOnStatus(world, backend.status()); !s.ok()) return s;
  absl::StatusOr<std::vector<Limit>> limits = LimitsOf(options.rank);
  if (!limits.ok()) return limits.status();  // the same on every rank
  TurnOptions turns = TurnsOf(options);
  if (world.size() > 1) {
    turns.largest = [&world](double value) {
      auto largest = static_cast<float>(value);
      world.AllReduceMax(&largest, 1);
      return static_cast<double>(largest);
    };
  }
  TurnTimer timer(
      *std::move(limits), [&] { (*backend)->Synchronize(); }, std::move(turns));
  BenchTables tables = measure(**backend, timer);
  if (!tables.ok()) return tables;
  Say("limits");
  std::vector<Table> all = BenchLimits(timer);
  for (Table& table : *tables) all.push_back(std::move(table));
  return all;
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
  const std::unique_ptr<Communicator> alone = MakeSelfCommunicator();
  return OnDevice(options, *alone, [&](Backend& backend, TurnTimer& timer) {
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
  MpiSession session;
  BenchOptions placed = options;
  PlaceRank(session, placed.rank);
  const std::unique_ptr<Communicator> world = session.World();
  const bool first = world->rank() == 0;
  const auto measure = [&](Backend& backend, TurnTimer& timer) -> BenchTables {
    return BenchModel({.config = *config,
                       .quant = *quant,
                       .prompt = options.prompt,
                       .generate = options.generate,
                       .batches = options.batches,
                       .context = options.context,
                       .kv_dtype = options.rank.kv_dtype,
                       .tp = options.rank.tp,
                       .ep = options.rank.ep,
                       .cut = placed.rank.cut,
                       .local_size = placed.rank.local_size,
                       .progress = first ? BenchProgress(&Say) : BenchProgress()},
                      backend, world->Split(0, world->rank()), timer);
  };
  BenchTables tables = OnDevice(placed, *world, measure);
  if (tables.ok() && !first) tables->clear();
  return tables;
}

BenchTables BenchEngineCommand(const BenchOptions& options) {
  const absl::StatusOr<QuantSpec> quant = options.quant.Spec();
  if (!quant.ok()) return quant.status();
  MpiSession session;
  std::unique_ptr<Communicator> world = session.World();
  EngineBenchOptions bench{.rank = options.rank,
                           .generate = options.generate,
                           .batches = options.batches,
                           .turns = options.turns,
                           .progress = world->rank() == 0 ? BenchProgress(&Say) : BenchProgress()};
  bench.rank.quant = *quant;
  PlaceRank(session, bench.rank);
  return BenchEngine(bench, std::move(world));
}

BenchTables BenchCheckpointCommand(const BenchOptions& options) {
  const absl::StatusOr<ModelConfig> config = BenchModelConfig(options.config, options.layers);
  if (!config.ok()) return config.status();
  const absl::StatusOr<QuantSpec> quant = options.quant.Spec();
  if (!quant.ok()) return quant.status();
  absl::StatusOr<std::unique_ptr<Backend>> backend = OpenDevice(options.rank, 0);
  if (!backend.ok()) return backend.status();
  std::error_code error;
  const std::string temporary = std::filesystem::temp_directory_path(error).string();
  return BenchCheckpoint({.config = *config,
                          .quant = *quant,
                          .scratch = options.scratch.empty() ? temporary : options.scratch,
                          .threads = {.num_threads = options.rank.num_threads},
                          .turns = options.turns,
                          .progress = &Say},
                         **backend);
}

}  // namespace intermix
