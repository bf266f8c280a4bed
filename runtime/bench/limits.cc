#include "runtime/bench/limits.h"

#include <algorithm>
#include <utility>

#include "kernels/cpu/cpu_limits.h"
#include "kernels/cuda/cuda_limits.h"

namespace intermix {
namespace {

absl::StatusOr<Isa> IsaOf(const RankOptions& options) {
  return options.device == "reference" ? Isa::kScalar : IsaFromEnvironment();
}

ThreadPoolOptions ThreadsOf(const RankOptions& options) {
  return {.num_threads = options.device == "reference" ? 1 : options.num_threads,
          .pin = options.pin_threads};
}

bool IsHost(const RankOptions& options) {
  return options.device == "cpu" || options.device == "reference";
}

}  // namespace

absl::StatusOr<std::vector<Limit>> LimitsOf(const RankOptions& options) {
  if (options.device == "cuda") return CudaLimits({.device = std::max(options.local_rank, 0)});
  if (!IsHost(options)) return std::vector<Limit>();
  const absl::StatusOr<Isa> isa = IsaOf(options);
  if (!isa.ok()) return isa.status();
  return CpuLimits(ThreadsOf(options), *isa);
}

absl::StatusOr<std::vector<Limit>> AllLimitsOf(const RankOptions& options) {
  if (!IsHost(options)) return LimitsOf(options);
  const int most = ThreadPool(ThreadsOf(options)).num_threads();
  std::vector<int> counts;
  for (int threads = 1; threads < most; threads *= 2) counts.push_back(threads);
  counts.push_back(most);
  std::vector<Limit> all;
  for (const int threads : counts) {
    for (const Isa isa : SupportedIsas()) {
      for (Limit& limit : CpuLimits({.num_threads = threads, .pin = options.pin_threads}, isa)) {
        all.push_back(std::move(limit));
      }
    }
  }
  return all;
}

}  // namespace intermix
