// NcclSecondStream: where a GPU's exchanges run beside its other work, and the events that order
// the two streams. Engine thread only; at most kMaxUnderWay exchanges may be under way.
#pragma once

#include <nccl.h>

#include <array>
#include <cstdint>

namespace intermix {

class NcclSecondStream {
 public:
  static constexpr int64_t kMaxUnderWay = 8;

  // `first` is the stream of the calling thread's current GPU that other work goes to; it outlives
  // this. `rank` is named in messages.
  NcclSecondStream(cudaStream_t first, int rank);
  ~NcclSecondStream();
  NcclSecondStream(const NcclSecondStream&) = delete;
  NcclSecondStream& operator=(const NcclSecondStream&) = delete;

  // The stream for an exchange: comes after what the first stream was given before.
  cudaStream_t Begin();
  // The exchange is enqueued: its number.
  int64_t End();
  // What the first stream is given from now on comes after that exchange and those before it.
  void WaitFor(int64_t exchange);
  // Whether the first stream has yet to wait for an exchange.
  bool busy() const { return waited_ < ended_; }

 private:
  void Check(cudaError_t error, const char* what) const;

  cudaStream_t first_;
  int rank_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t ready_ = nullptr;  // what the first stream was given before an exchange
  std::array<cudaEvent_t, kMaxUnderWay> done_ = {};  // of exchange i: done_[i % kMaxUnderWay]
  int64_t ended_ = 0;                                // the newest exchange; they count from 1
  int64_t waited_ = 0;                               // the newest that the first stream waits for
};

}  // namespace intermix
