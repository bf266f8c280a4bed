#include "kernels/cuda/cuda_context.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace intermix::cuda {
namespace {

constexpr int kOldestMajor = 8;  // mma.sync on int8 with 32 in-features, cp.async

int Attribute(cudaDeviceAttr attribute, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, attribute, device);
  CHECK(error == cudaSuccess) << "GPU " << device << ": " << cudaGetErrorString(error);
  return value;
}

absl::Status CheckDevice(int device, int rank) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    return absl::UnavailableError(
        absl::StrCat("this host has no GPU that CUDA can use (",
                     error != cudaSuccess ? cudaGetErrorString(error) : "none found",
                     "); install an NVIDIA driver for CUDA ", CUDART_VERSION / 1000, ".",
                     CUDART_VERSION % 1000 / 10, ", or use --device cpu"));
  }
  if (device < 0 || device >= count) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " wants GPU ", device,
                                                   " of its host, which has ", count,
                                                   "; start at most one rank for each GPU, and "
                                                   "let each see all of its host's"));
  }
  const int major = Attribute(cudaDevAttrComputeCapabilityMajor, device);
  const int minor = Attribute(cudaDevAttrComputeCapabilityMinor, device);
  if (major < kOldestMajor) {
    return absl::InvalidArgumentError(absl::StrCat("GPU ", device, " has compute capability ",
                                                   major, ".", minor, "; Intermix needs ",
                                                   kOldestMajor, ".0 or newer"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaContext>> CudaContext::Make(int device, int rank) {
  if (absl::Status s = CheckDevice(device, rank); !s.ok()) return s;
  std::unique_ptr<CudaContext> context(new CudaContext(device, rank));
  context->MakeCurrent();
  context->Check(cudaStreamCreateWithFlags(&context->stream_, cudaStreamNonBlocking),
                 "creating a stream");
  context->gemm_device_ = {
      .sm_count = Attribute(cudaDevAttrMultiProcessorCount, device),
      .shared_bytes_per_sm = Attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
      .shared_bytes_per_block = Attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
      .wgmma = Attribute(cudaDevAttrComputeCapabilityMajor, device) == 9 &&
               Attribute(cudaDevAttrComputeCapabilityMinor, device) == 0};
  cudaDeviceProp properties;
  context->Check(cudaGetDeviceProperties(&properties, device), "reading its properties");
  context->name_ = absl::StrCat("cuda ", properties.name);
  return context;
}

CudaContext::~CudaContext() {
  if (stream_ == nullptr) return;
  MakeCurrent();
  Check(cudaStreamDestroy(stream_), "ending its stream");
}

void CudaContext::MakeCurrent() const { Check(cudaSetDevice(device_), "choosing the GPU"); }

void CudaContext::Check(cudaError_t error, const std::string& what) const {
  CHECK(error == cudaSuccess) << "rank " << rank_ << ", GPU " << device_ << ": " << what << ": "
                              << cudaGetErrorString(error);
}

int64_t CudaContext::free_bytes() const {
  MakeCurrent();
  size_t free = 0;
  size_t total = 0;
  Check(cudaMemGetInfo(&free, &total), "reading its free memory");
  return static_cast<int64_t>(free);
}

Buffer CudaContext::Allocate(size_t bytes) const {
  MakeCurrent();
  CountHostWork();
  const size_t size = std::max<size_t>(bytes, 1);
  void* data = nullptr;
  if (const cudaError_t error = cudaMalloc(&data, size); error != cudaSuccess) {
    Check(error, absl::StrCat("allocating ", size, " bytes (use more GPUs, or less --kv-memory)"));
  }
  Check(cudaMemsetAsync(data, 0, size, stream_), "clearing memory");
  return Buffer(data, bytes, Device::kCuda, [this](void* p) {
    if (p == nullptr) return;
    MakeCurrent();
    Check(cudaFree(p), "freeing memory");
  });
}

}  // namespace intermix::cuda
