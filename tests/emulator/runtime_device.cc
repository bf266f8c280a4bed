// The fake runtime: errors, devices and device memory.
#include <algorithm>
#include <cstring>

#include "tests/emulator/device.h"
#include "tests/emulator/include/cuda_runtime.h"
#include "tests/emulator/region.h"

namespace emu {
namespace {

constinit thread_local cudaError_t last_error = cudaSuccess;

// The numbers of an H100, but few multiprocessors, so that persistent kernels stay small.
constexpr size_t kSharedPerBlock = 48 * 1024;
constexpr size_t kSharedPerBlockOptin = 227 * 1024;
constexpr size_t kSharedPerMultiprocessor = 228 * 1024;
constexpr int kMultiprocessors = 4;
constexpr int kRegisters = 65536;
constexpr int kL2Bytes = 50 * 1024 * 1024;

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};
constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture was not initiated in this stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const ErrorText& TextOf(cudaError_t error) {
  const auto* found = std::find_if(std::begin(kErrors), std::end(kErrors),
                                   [error](const ErrorText& e) { return e.error == error; });
  return found == std::end(kErrors) ? *(std::end(kErrors) - 1) : *found;
}

bool ValidDevice(int device) { return device >= 0 && device < GetOptions().devices; }

}  // namespace

cudaError_t Fail(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

}  // namespace emu

using emu::CurrentDevice;
using emu::Device;
using emu::Fail;

const char* cudaGetErrorString(cudaError_t error) { return emu::TextOf(error).text; }
const char* cudaGetErrorName(cudaError_t error) { return emu::TextOf(error).name; }

cudaError_t cudaPeekAtLastError() {
  const cudaError_t sticky = CurrentDevice().error;
  return sticky != cudaSuccess ? sticky : emu::last_error;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  emu::last_error = cudaSuccess;
  return error;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = emu::GetOptions().devices;
  return *count > 0 ? cudaSuccess : Fail(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
  if (!emu::ValidDevice(device)) return Fail(cudaErrorInvalidDevice);
  emu::current_device = device;
  return Fail(Device::Get(device).error);
}

cudaError_t cudaGetDevice(int* device) {
  *device = emu::current_device;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  Device& device = CurrentDevice();
  const std::lock_guard lock(device.mutex);
  if (device.HasCapture()) return Fail(cudaErrorStreamCaptureUnsupported);
  device.RunAll();
  return Fail(device.error);
}

cudaError_t cudaDeviceReset() {
  Device& device = CurrentDevice();
  const std::lock_guard lock(device.mutex);
  device.Reset();
  emu::last_error = cudaSuccess;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!emu::ValidDevice(device)) return Fail(cudaErrorInvalidDevice);
  *properties = {};
  std::strcpy(properties->name, "Emulated GPU");
  properties->totalGlobalMem = emu::GetOptions().device_memory_bytes;
  properties->sharedMemPerBlock = emu::kSharedPerBlock;
  properties->regsPerBlock = emu::kRegisters;
  properties->warpSize = emu::kWarpLanes;
  properties->maxThreadsPerBlock = emu::kMaxThreads;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 2147483647;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->major = 9;
  properties->minor = 0;
  properties->multiProcessorCount = emu::kMultiprocessors;
  properties->l2CacheSize = emu::kL2Bytes;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->sharedMemPerMultiprocessor = emu::kSharedPerMultiprocessor;
  properties->regsPerMultiprocessor = emu::kRegisters;
  properties->sharedMemPerBlockOptin = emu::kSharedPerBlockOptin;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device)) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      return cudaSuccess;
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = properties.regsPerMultiprocessor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      return cudaSuccess;
  }
  return Fail(cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  Device& device = CurrentDevice();
  const std::lock_guard lock(device.mutex);
  *total_bytes = emu::GetOptions().device_memory_bytes;
  *free_bytes = device.free_bytes();
  return Fail(device.error);
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  Device& device = CurrentDevice();
  const std::lock_guard lock(device.mutex);
  if (device.error != cudaSuccess) return Fail(device.error);
  if (device.HasCapture()) return Fail(cudaErrorStreamCaptureUnsupported);
  return Fail(device.Allocate(pointer, bytes));
}

cudaError_t cudaFree(void* pointer) {
  if (pointer != nullptr && !emu::InRegion(reinterpret_cast<uintptr_t>(pointer))) {
    return Fail(cudaErrorInvalidValue);
  }
  Device& device = pointer == nullptr
                       ? CurrentDevice()
                       : Device::Get(emu::DeviceOf(reinterpret_cast<uintptr_t>(pointer)));
  const std::lock_guard lock(device.mutex);
  if (device.error != cudaSuccess) return Fail(device.error);
  if (device.HasCapture()) return Fail(cudaErrorStreamCaptureUnsupported);
  return Fail(device.Free(pointer));
}
