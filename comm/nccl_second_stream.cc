#include "comm/nccl_second_stream.h"

#include "kernels/core/check.h"

namespace intermix {
namespace {

// NCCL's blocks get the SMs that come free before those of waiting GEMMs do. CUDA takes the highest
// priority that the GPU has where this is higher.
constexpr int kHighestPriority = -1000;

}  // namespace

NcclSecondStream::NcclSecondStream(cudaStream_t first, int rank) : first_(first), rank_(rank) {
  Check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, kHighestPriority),
        "creating a second stream");
  Check(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming), "creating an event");
  for (cudaEvent_t& event : done_) {
    Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
  }
}

NcclSecondStream::~NcclSecondStream() {
  for (cudaEvent_t event : done_) Check(cudaEventDestroy(event), "ending an event");
  Check(cudaEventDestroy(ready_), "ending an event");
  Check(cudaStreamDestroy(stream_), "ending the second stream");
}

cudaStream_t NcclSecondStream::Begin() {
  CHECK_LT(ended_ - waited_, kMaxUnderWay);
  Check(cudaEventRecord(ready_, first_), "marking an exchange's input");
  Check(cudaStreamWaitEvent(stream_, ready_, 0), "ordering an exchange after its input");
  return stream_;
}

int64_t NcclSecondStream::End() {
  ++ended_;
  Check(cudaEventRecord(done_[ended_ % kMaxUnderWay], stream_), "marking an exchange's end");
  return ended_;
}

void NcclSecondStream::WaitFor(int64_t exchange) {
  CHECK(0 < exchange && exchange <= ended_) << exchange << " of " << ended_;
  if (exchange <= waited_) return;
  Check(cudaStreamWaitEvent(first_, done_[exchange % kMaxUnderWay], 0), "waiting for an exchange");
  waited_ = exchange;
}

void NcclSecondStream::Check(cudaError_t error, const char* what) const {
  CHECK(error == cudaSuccess) << "rank " << rank_ << ": " << what << ": "
                              << cudaGetErrorString(error);
}

}  // namespace intermix
