// One emulated device: its memory, its streams, its error. Every call takes `mutex` first; the
// thread that waits for an operation runs it, and others that want the device wait meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/emulator/block.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/queue.h"

namespace emu {

struct KernelLaunch {
  std::string name;
  cudaLaunchConfig_t config;
  bool early = false;             // may start before what it follows has ended
  std::vector<uint4> parameters;  // a copy, 16-byte aligned
  std::function<void()> body;     // of one thread
};

class Device final : public History {
 public:
  // Created on first use; lives as long as the process. `index` is below GetOptions().devices.
  static Device& Get(int index);
  // Null where the device was never used.
  static Device* Find(int index);

  std::recursive_mutex mutex;
  cudaError_t error = cudaSuccess;  // sticky

  // Memory. Allocations start at page boundaries with unmapped pages between; addresses are not
  // used twice.
  cudaError_t Allocate(void** pointer, size_t bytes);
  cudaError_t Free(void* pointer);
  bool Holds(const void* pointer, size_t bytes) const;  // wholly inside one live allocation
  uint64_t free_bytes() const;
  void Reset();

  // Streams. A null stream is the default one.
  CUstream_st* CreateStream(bool blocking);
  void DestroyStream(CUstream_st* stream);
  CUstream_st* Resolve(cudaStream_t stream);
  OperationRef Enqueue(CUstream_st* stream, const Request& request,
                       const std::vector<OperationRef>& after = {});
  void RunUntil(const OperationRef& operation);  // and lets the host know that it ran
  void RunAll();
  void Advance(const OperationRef& towards);  // runs one operation
  // The host has seen that `operation` ran.
  void Observe(const OperationRef& operation);
  bool HasCapture() const;

  // Inside an operation.
  void RunKernel(const KernelLaunch& launch);
  // The device reads or writes its memory outside of kernels.
  void TouchMemory(const std::string& what, const void* address, size_t bytes, bool write);
  void OpenMemory();
  void CloseMemory();

  // History of the operation that runs now.
  bool Ordered(uint64_t time, bool waited) const override;
  std::string NameOf(uint64_t time) const override;
  bool WasFreed(uintptr_t address) const override;
  // "byte 20 of 64 that cudaMalloc gave" for a message.
  std::string DescribeAddress(uintptr_t address) const override;

 private:
  struct Past {
    uint64_t time;
    OperationRef operation;
  };

  explicit Device(int index);
  OperationRef Choose(const OperationRef& wanted);
  void RunLazily(const OperationRef& wanted);
  void Execute(const OperationRef& operation);
  void FillBlock(BlockState& block, const std::string& name);
  uint64_t OrderedUntil(const StreamClock& before) const;
  const Past* FindPast(uint64_t time) const;

  const int index_;
  const uintptr_t base_;
  uint64_t used_span_;                  // addresses handed out so far, from base_
  std::map<uintptr_t, uint64_t> live_;  // allocations: begin, bytes
  std::map<uintptr_t, uint64_t> freed_;
  uint64_t live_bytes_ = 0;
  int open_ = 0;
  uint64_t shared_high_ = 0;  // shared memory that some block had

  std::vector<std::unique_ptr<CUstream_st>> streams_;  // the default stream first
  int next_stream_id_ = 0;
  StreamClock host_;        // what the host has waited for
  std::vector<Past> past_;  // operations that ran, from the first that something may race with
  OperationRef running_;
  StreamClock early_;  // what is ordered before its start, if it is a kernel that starts early
  uint64_t time_ = 0;
  std::mt19937_64 random_;
  BlockRunner runner_;
  BlockOrder block_order_;
};

// The device of this thread's calls (cudaSetDevice).
extern constinit thread_local int current_device;
Device& CurrentDevice();
// Records an error of this thread's calls (cudaGetLastError) and gives it back.
cudaError_t Fail(cudaError_t error);

}  // namespace emu
