// CudaBackend: the operations of kernels/backend.h on one NVIDIA GPU, sm_80 or newer.
//
// All work goes to one stream; the host waits only in CopyToHost, Synchronize and, where the
// staging memory is still in flight, CopyToDevice. Every CUDA error is fatal and names the rank.
// No CUDA header is needed here, and none is included: without the toolkit a stub is linked.
#pragma once

#include <functional>
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

// Work that is the same each time but for what lies in memory. It is started op by op until that
// needs nothing of the host, on any rank: no allocation, copy or wait. Then it is recorded, and
// from then on launched as one CUDA graph. Engine thread; ends before the backend and the
// communicators at work.
class CudaGraph {
 public:
  virtual ~CudaGraph() = default;
  // `work` enqueues ops of the backend and collectives on its stream; the same ones each time, with
  // the same memory. Not called where the graph is launched instead.
  //   agree  whether all ranks say true; called after work that was started op by op
  virtual void Run(const std::function<void()>& work, const std::function<bool(bool)>& agree) = 0;
  virtual bool recorded() const = 0;
};

// `backend` is one that MakeCudaBackend made.
std::unique_ptr<CudaGraph> MakeCudaGraph(Backend& backend);

// What this build can do, for --version: "CUDA 13.0, sm_80 sm_90 and newer", or "without CUDA".
std::string CudaBuildDescription();

}  // namespace intermix
