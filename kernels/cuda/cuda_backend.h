// CudaBackend: the operations of kernels/backend.h on one NVIDIA GPU, sm_80 or newer.
//
// All work goes to one stream; the host waits only in CopyToHost, Synchronize and, where the
// staging memory is still in flight, CopyToDevice. Every CUDA error is fatal and names the rank.
// No CUDA header is needed here, and none is included: without the toolkit a stub is linked.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace intermix {

struct CudaBackendOptions {
  int device = 0;  // which of the host's GPUs
  int rank = 0;    // named in messages
};

// The backend makes its GPU the current one of the calling thread, whichever calls an op.
//   UNAVAILABLE: this build has no CUDA, or the host has no driver or no GPU.
//   INVALID_ARGUMENT: there is no GPU of that number, or it is too old.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions& options);

// The cudaStream_t of a backend that MakeCudaBackend made; lives as long as the backend.
void* CudaStreamOf(const Backend& backend);

// What this build can do, for --version: "CUDA 13.0, sm_80 sm_90 and newer", or "without CUDA".
std::string CudaBuildDescription();

}  // namespace intermix
