#include "kernels/cuda/pinned_staging.h"

#include <algorithm>
#include <cstring>

namespace intermix::cuda {

PinnedStaging::PinnedStaging(const CudaContext& context) : context_(context) {
  void* memory = nullptr;
  context_.Check(cudaMallocHost(&memory, 2 * kHalfBytes), "allocating pinned memory");
  memory_ = static_cast<char*>(memory);
  for (cudaEvent_t& event : emptied_) {
    context_.Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
  }
}

PinnedStaging::~PinnedStaging() {
  context_.MakeCurrent();
  context_.Check(cudaStreamSynchronize(context_.stream()), "ending its copies");
  for (cudaEvent_t event : emptied_) context_.Check(cudaEventDestroy(event), "ending an event");
  context_.Check(cudaFreeHost(memory_), "freeing pinned memory");
}

char* PinnedStaging::Reserve(size_t bytes) {
  constexpr size_t kAlignment = 64;
  if (used_ + bytes > kHalfBytes) {
    context_.Check(cudaEventRecord(emptied_[half_], context_.stream()), "recording an event");
    half_ = 1 - half_;
    context_.Check(cudaEventSynchronize(emptied_[half_]), "waiting for copies to the device");
    used_ = 0;
  }
  char* place = memory_ + static_cast<size_t>(half_) * kHalfBytes + used_;
  used_ = std::min(kHalfBytes, (used_ + bytes + kAlignment - 1) / kAlignment * kAlignment);
  return place;
}

void PinnedStaging::Upload(const void* host, void* device, size_t bytes) {
  context_.CountHostWork();
  const char* from = static_cast<const char*>(host);
  char* to = static_cast<char*>(device);
  for (size_t done = 0; done < bytes;) {
    const size_t part = std::min(bytes - done, kHalfBytes);
    char* staged = Reserve(part);
    std::memcpy(staged, from + done, part);
    context_.Check(
        cudaMemcpyAsync(to + done, staged, part, cudaMemcpyHostToDevice, context_.stream()),
        "copying to the device");
    done += part;
  }
}

void PinnedStaging::Download(const void* device, void* host, size_t bytes) {
  context_.CountHostWork();
  const char* from = static_cast<const char*>(device);
  char* to = static_cast<char*>(host);
  for (size_t done = 0; done < bytes;) {
    const size_t part = std::min(bytes - done, kHalfBytes);
    char* staged = Reserve(part);
    context_.Check(
        cudaMemcpyAsync(staged, from + done, part, cudaMemcpyDeviceToHost, context_.stream()),
        "copying from the device");
    context_.Check(cudaStreamSynchronize(context_.stream()), "copying from the device");
    std::memcpy(to + done, staged, part);
    done += part;
  }
}

}  // namespace intermix::cuda
