// Launch: the one way to start a kernel; nvcc's <<<>>> and the emulator's launcher behind one call.
//
// Kernels that start early (LaunchShape::early; programmatic dependent launch, which graphs keep):
// their launch, and what they need of no kernel, cost no time of their own. What keeps that right:
// - Every thread of such a kernel calls wait_for_kernels_ahead before it returns. So a kernel's end
//   is the end of all kernels ahead of it, and a wait covers them all, not only the one just ahead.
// - Before the wait it writes nothing, and reads what no kernel that may still run writes: what was
//   there when the model was loaded (codes and scales, a norm's gain, the router's gate) and what
//   the step copied to the device (positions, slots). Behind a copy, a collective or an event a
//   kernel starts when that is done. So what an earlier step wrote is over, too: decode attention
//   reads the cache of positions before a sequence's first row of this step (PagedRows).
// - A GEMM lets the next kernel start (let_next_kernel_start) after its own wait. So what lies
//   before a GEMM is over for every kernel behind it, even before that one waits: down reads early
//   the row offsets that gate and up have read (GemmArgs::offsets_are_old), and the norm behind
//   down the places and weights of the experts' rows (RmsNormArgs::slots_are_old).
// - Any other kernel lets the next one start at once. All of its blocks have a place by then, so
//   that those of the next take it from nobody; but they share the first multiprocessors that are
//   free, so a kernel that wants one block on each, where two fit, does not start early.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <unordered_map>

#include "kernels/core/check.h"

namespace intermix::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic shared memory
  cudaStream_t stream = nullptr;
  // Starts, where the device can, before the kernel ahead of it in the stream has ended: as soon as
  // all blocks of that one let it (let_next_kernel_start) or have ended. Calls
  // wait_for_kernels_ahead. Behind anything but a kernel it starts when that is done.
  bool early = false;
};

// Kernels may have more than 48 KB of shared memory only if told so. Always told as much as the
// device has: what is told is kept for the kernel, and several threads may start it.
inline void AllowAllSharedMemory(const void* kernel) {
  int device = 0;
  int most = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}

// Whether the device runs a text of the kernel in which it can wait (sm_90 or newer); the same for
// all devices of a process.
inline bool CanStartEarly(const void* kernel) {
  thread_local std::unordered_map<const void*, bool> known;
  const auto [answer, is_new] = known.try_emplace(kernel, false);
  if (is_new) {
    cudaFuncAttributes attributes = {};
    answer->second =
        cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= 90;
  }
  return answer->second;
}

// Starts `kernel(args...)`; stream-ordered. A launch that the device refuses is fatal and names the
// kernel and the shape. A grid with a zero dimension does nothing.
template <typename... Params, typename... Args>
void Launch(const char* name, void (*kernel)(Params...), const LaunchShape& shape, Args... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  if (shape.shared_bytes > 48 * 1024) AllowAllSharedMemory(reinterpret_cast<const void*>(kernel));
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early;
  config.numAttrs = shape.early && CanStartEarly(reinterpret_cast<const void*>(kernel)) ? 1 : 0;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
  CHECK(error == cudaSuccess) << "kernel " << name << ", grid " << shape.grid.x << "x"
                              << shape.grid.y << "x" << shape.grid.z << ", block " << shape.block.x
                              << ", shared " << shape.shared_bytes << ": "
                              << cudaGetErrorString(error);
}

}  // namespace intermix::cuda
