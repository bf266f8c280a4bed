#include "kernels/cuda/cuda_backend.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_backend_class.h"
#include "kernels/cuda/routing.h"

namespace intermix {
namespace cuda {

CudaBackend::CudaBackend(std::unique_ptr<CudaContext> context)
    : context_(std::move(context)),
      staging_(*context_),
      linear_(*context_, staging_),
      attention_scratch_(*context_),
      top_k_scratch_(*context_) {}

CudaBackend::~CudaBackend() { Synchronize(); }

Buffer CudaBackend::AllocateHost(size_t bytes) {
  context_->MakeCurrent();
  void* data = nullptr;
  const size_t size = std::max<size_t>(bytes, 1);
  context_->Check(cudaMallocHost(&data, size),
                  absl::StrCat("allocating ", size, " bytes of pinned memory"));
  std::memset(data, 0, size);
  return Buffer(data, bytes, Device::kCpu, [this](void* p) {
    if (p != nullptr) context_->Check(cudaFreeHost(p), "freeing pinned memory");
  });
}

void CudaBackend::CopyToDevice(const void* host, Tensor tensor) {
  Begin("CopyToDevice", tensor);
  CHECK(tensor.contiguous()) << tensor.ToString();
  staging_.Upload(host, tensor.raw(), static_cast<size_t>(tensor.bytes()));
}

void CudaBackend::CopyToHost(const Tensor& tensor, void* host) {
  CHECK(tensor.contiguous()) << tensor.ToString();
  const size_t bytes = static_cast<size_t>(tensor.bytes());
  if (bytes == 0) return;
  context_->MakeCurrent();
  CheckOnDevice(tensor);
  Synchronize();  // tells an op's error from the copy's
  staging_.Download(tensor.raw(), host, bytes);
}

void CudaBackend::StartCopyToHost(const Tensor& tensor, void* host) {
  Begin("StartCopyToHost", tensor);
  CHECK(tensor.contiguous()) << tensor.ToString();
  context_->CountHostWork();
  const auto bytes = static_cast<size_t>(tensor.bytes());
  context_->Check(cudaMemcpyAsync(host, tensor.raw(), bytes, cudaMemcpyDeviceToHost, stream()),
                  absl::StrCat("copying ", tensor.ToString(), " to the host"));
}

void CudaBackend::Synchronize() {
  context_->MakeCurrent();
  context_->CountHostWork();
  const cudaError_t error = cudaStreamSynchronize(stream());
  if (error == cudaSuccess) return;
  context_->Check(error,
                  absl::StrCat("an op failed, the last one begun is ", last_op_, " of ",
                               last_tensor_.ToString(), "; CUDA_LAUNCH_BLOCKING=1 tells which"));
}

}  // namespace cuda

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions& options) {
  absl::StatusOr<std::unique_ptr<cuda::CudaContext>> context =
      cuda::CudaContext::Make(options.device, options.rank);
  if (!context.ok()) return context.status();
  return std::make_unique<cuda::CudaBackend>(*std::move(context));
}

void* CudaStreamOf(const Backend& backend) {
  CHECK(backend.device() == Device::kCuda) << backend.name() << " has no CUDA stream";
  return static_cast<const cuda::CudaBackend&>(backend).stream();
}

std::string CudaBuildDescription() {
  return absl::StrCat("CUDA ", CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10, ", ",
                      INTERMIX_CUDA_DEVICES);
}

}  // namespace intermix
