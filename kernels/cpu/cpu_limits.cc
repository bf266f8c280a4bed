#include "kernels/cpu/cpu_limits.h"

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/buffer.h"

namespace intermix {
namespace {

// Pieces for each thread, handed out like a kernel's: one thread that others delay does not make
// all wait.
constexpr int64_t kPieces = 16;
constexpr double kPieceOps = 3e8;
constexpr double kScalarPieceOps = 6e6;             // without vectors
constexpr int64_t kReadBytes = int64_t{256} << 20;  // more than any cache

// What the runs of one set of limits share.
struct State {
  explicit State(const ThreadPoolOptions& options)
      : pool(options), memory(Buffer::Host(static_cast<size_t>(kReadBytes))) {}

  int64_t num_pieces() const { return kPieces * pool.num_threads(); }

  // Runs body(piece) for all of them.
  void ForPieces(const std::function<int64_t(int64_t)>& body) {
    pool.ParallelFor(num_pieces(), 1,
                     [&](int64_t begin, int64_t, int) { sink.fetch_add(body(begin)); });
  }

  ThreadPool pool;
  Buffer memory;
  std::atomic<int64_t> sink{0};  // keeps results alive
};

}  // namespace

std::vector<Limit> CpuLimits(const ThreadPoolOptions& threads, Isa isa) {
  const auto state = std::make_shared<State>(threads);
  const int64_t pieces = state->num_pieces();
  const cpu::PeakLoops loops = cpu::KernelsFor(isa).peak;
  const double piece_ops = isa == Isa::kScalar ? kScalarPieceOps : kPieceOps;
  const std::string name = absl::StrCat(std::string(Name(isa)), " x", state->pool.num_threads());
  const auto compute = [&](Resource resource, int64_t (*loop)(int64_t), double ops) {
    const auto count = static_cast<int64_t>(piece_ops / ops);
    return Limit{
        .name = name,
        .resource = resource,
        .amount = static_cast<double>(count * pieces) * ops,
        .run = [state, loop, count] { state->ForPieces([=](int64_t) { return loop(count); }); }};
  };
  const int64_t share = kReadBytes / pieces / 4096 * 4096;
  Limit read{.name = name,
             .resource = Resource::kBytes,
             .amount = static_cast<double>(share * pieces),
             .run = [state, share, loop = loops.read] {
               const auto* data = static_cast<const char*>(state->memory.data());
               state->ForPieces([=](int64_t i) { return loop(data + i * share, share); });
             }};
  return {compute(Resource::kInt8, loops.int8, loops.int8_ops),
          compute(Resource::kFloat, loops.floats, loops.float_ops), std::move(read)};
}

}  // namespace intermix
