// Launch: the one way to start a kernel; nvcc's <<<>>> and the emulator's launcher behind one call.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/core/check.h"

namespace intermix::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic shared memory
  cudaStream_t stream = nullptr;
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
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
  CHECK(error == cudaSuccess) << "kernel " << name << ", grid " << shape.grid.x << "x"
                              << shape.grid.y << "x" << shape.grid.z << ", block " << shape.block.x
                              << ", shared " << shape.shared_bytes << ": "
                              << cudaGetErrorString(error);
}

}  // namespace intermix::cuda
