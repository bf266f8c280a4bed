#include "runtime/bench/engine_bench.h"

#include <algorithm>
#include <limits>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/bench/profiled_backend.h"
#include "runtime/bench/turn_timer.h"
#include "runtime/engine/engine.h"

namespace intermix {
namespace {

constexpr int32_t kPromptTokens = 8;

// A rank whose backend tells how long it worked.
class ProfiledRank {
 public:
  absl::Status Open(RankOptions options, std::unique_ptr<Communicator> world) {
    options.cuda_graphs = false;  // ops are timed one by one
    options.observe = [this](std::unique_ptr<Backend> inner) {
      inner_ = std::move(inner);
      auto profiled = std::make_unique<ProfiledBackend>(*inner_, &SteadySeconds);
      profiled_ = profiled.get();
      return profiled;
    };
    absl::StatusOr<std::unique_ptr<Rank>> rank = Rank::Create(options, std::move(world));
    if (!rank.ok()) return rank.status();
    rank_ = *std::move(rank);
    return absl::OkStatus();
  }

  Rank& rank() { return *rank_; }
  // Of all steps so far; while none is under way.
  double kernel_seconds() const {
    double sum = 0.0;
    for (const auto& [name, op] : profiled_->ops()) sum += op.seconds;
    return sum;
  }

 private:
  std::unique_ptr<Backend> inner_;  // outlives the rank
  std::unique_ptr<Rank> rank_;
  const ProfiledBackend* profiled_ = nullptr;
};

// One turn: `sequences` requests at once.
struct Turn {
  double seconds = 0.0;
  double kernel_seconds = 0.0;
  double steps = 0.0;
};

absl::StatusOr<Turn> Measure(ProfiledRank& rank, Engine& engine, int32_t sequences,
                             int32_t generate) {
  const int64_t first_step = engine.Snapshot().step;
  const double kernels = rank.kernel_seconds();
  const double start = SteadySeconds();
  std::vector<std::shared_ptr<RequestStream>> streams;
  for (int32_t s = 0; s < sequences; ++s) {
    GenerateRequest request{.sampling = {.max_tokens = generate}};
    for (int32_t i = 0; i < kPromptTokens; ++i) {
      request.prompt.push_back((7 * s + i + 1) % rank.rank().runner().vocab_size());
    }
    absl::StatusOr<std::shared_ptr<RequestStream>> stream = engine.Submit(request);
    if (!stream.ok()) return stream.status();
    streams.push_back(*std::move(stream));
  }
  for (const std::shared_ptr<RequestStream>& stream : streams) {
    TokenDelta delta;
    while (!delta.finished) delta = stream->Next();
    if (!delta.status.ok()) return delta.status;
  }
  return Turn{.seconds = SteadySeconds() - start,
              .kernel_seconds = rank.kernel_seconds() - kernels,
              .steps = static_cast<double>(engine.Snapshot().step - first_step)};
}

std::vector<Cell> RowOf(int32_t sequences, int32_t generate, const std::vector<Turn>& turns) {
  std::vector<double> steps;
  std::vector<double> kernels;
  std::vector<double> outside;
  std::vector<double> rates;
  for (const Turn& turn : turns) {
    steps.push_back(1e6 * turn.seconds / turn.steps);
    kernels.push_back(1e6 * turn.kernel_seconds / turn.steps);
    outside.push_back(steps.back() - kernels.back());
    rates.push_back(static_cast<double>(sequences) * generate / turn.seconds);
  }
  std::vector<Cell> row;
  for (const double value : {static_cast<double>(sequences), Median(rates), Median(steps),
                             Median(kernels), Median(outside)}) {
    row.emplace_back(value);
  }
  return row;
}

}  // namespace

absl::StatusOr<std::vector<Table>> BenchEngine(const EngineBenchOptions& options,
                                               std::unique_ptr<Communicator> world) {
  ProfiledRank rank;
  if (absl::Status s = rank.Open(options.rank, std::move(world)); !s.ok()) return s;
  if (rank.rank().world().rank() != 0) {
    rank.rank().RunWorker();
    return std::vector<Table>();
  }
  const int32_t most = *std::max_element(options.batches.begin(), options.batches.end());
  Engine engine({.max_running = most,
                 .max_queue = most,
                 .max_unread = std::numeric_limits<int32_t>::max(),
                 .prefix_caching = false},
                rank.rank().runner());
  Table table{.title = "engine",
              .columns = {"batch", "tokens/s", "us/step", "us in kernels", "us outside"}};
  absl::Status status;
  std::thread client([&] {
    for (const int32_t sequences : options.batches) {
      std::vector<Turn> turns;
      for (int turn = -1; turn < options.turns && status.ok(); ++turn) {
        if (options.progress) options.progress(absl::StrCat("generate, batch ", sequences));
        const absl::StatusOr<Turn> measured = Measure(rank, engine, sequences, options.generate);
        status.Update(measured.status());
        if (turn >= 0 && measured.ok()) turns.push_back(*measured);  // the first one warms up
      }
      if (status.ok()) table.rows.push_back(RowOf(sequences, options.generate, turns));
    }
    engine.Shutdown();
  });
  engine.Run();
  client.join();
  if (!status.ok()) return status;
  return std::vector<Table>{std::move(table)};
}

}  // namespace intermix
