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

constexpr double kRunOps = 5e9;                     // of one thread
constexpr double kScalarRunOps = 1e8;               // without vectors
constexpr int64_t kReadBytes = int64_t{256} << 20;  // more than any cache

// What the runs of one set of limits share.
struct State {
  explicit State(const ThreadPoolOptions& options)
      : pool(options), memory(Buffer::Host(static_cast<size_t>(kReadBytes))) {}

  // Runs body(worker) once on each thread.
  void OnEachThread(const std::function<int64_t(int64_t)>& body) {
    pool.ParallelFor(pool.num_threads(), 1,
                     [&](int64_t begin, int64_t, int) { sink.fetch_add(body(begin)); });
  }

  ThreadPool pool;
  Buffer memory;
  std::atomic<int64_t> sink{0};  // keeps results alive
};

}  // namespace

std::vector<Limit> CpuLimits(const ThreadPoolOptions& threads, Isa isa) {
  const auto state = std::make_shared<State>(threads);
  const int num_threads = state->pool.num_threads();
  const cpu::PeakLoops loops = cpu::KernelsFor(isa).peak;
  const double run_ops = isa == Isa::kScalar ? kScalarRunOps : kRunOps;
  const std::string name = absl::StrCat(std::string(Name(isa)), " x", num_threads);
  const auto compute = [&](Resource resource, int64_t (*loop)(int64_t), double ops) {
    const auto count = static_cast<int64_t>(run_ops / ops);
    return Limit{
        .name = name,
        .resource = resource,
        .amount = static_cast<double>(count) * ops * num_threads,
        .run = [state, loop, count] { state->OnEachThread([=](int64_t) { return loop(count); }); }};
  };
  const int64_t share = kReadBytes / num_threads / 4096 * 4096;
  Limit read{.name = name,
             .resource = Resource::kBytes,
             .amount = static_cast<double>(share) * num_threads,
             .run = [state, share, loop = loops.read] {
               const auto* data = static_cast<const char*>(state->memory.data());
               state->OnEachThread([=](int64_t i) { return loop(data + i * share, share); });
             }};
  return {compute(Resource::kInt8, loops.int8, loops.int8_ops),
          compute(Resource::kFloat, loops.floats, loops.float_ops), std::move(read)};
}

}  // namespace intermix
