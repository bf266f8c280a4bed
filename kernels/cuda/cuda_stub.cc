// What is linked where the CUDA toolkit was absent, or not asked for, at build time.
#include "kernels/core/check.h"
#include "kernels/cuda/cuda_backend.h"

namespace intermix {

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions&) {
  return absl::UnavailableError(
      "this build has no CUDA; configure with --preset cuda on a machine that has the CUDA "
      "toolkit, or use --device cpu");
}

void* CudaStreamOf(const Backend&) { Fatal("a build without CUDA has no CUDA stream"); }

std::string CudaBuildDescription() { return "without CUDA"; }

}  // namespace intermix
