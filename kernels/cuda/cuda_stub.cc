// What is linked where the CUDA toolkit was absent, or not asked for, at build time.
#include "kernels/core/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_limits.h"

namespace intermix {

namespace {

absl::Status NoCuda() {
  return absl::UnavailableError(
      "this build has no CUDA; configure with --preset cuda on a machine that has the CUDA "
      "toolkit, or use --device cpu");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions&) {
  return NoCuda();
}

absl::StatusOr<std::vector<Limit>> CudaLimits(const CudaLimitOptions&) { return NoCuda(); }

void* CudaStreamOf(const Backend&) { Fatal("a build without CUDA has no CUDA stream"); }

std::unique_ptr<CudaGraph> MakeCudaGraph(Backend&) { Fatal("a build without CUDA has no graphs"); }

std::string CudaBuildDescription() { return "without CUDA"; }

}  // namespace intermix
