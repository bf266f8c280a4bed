// The fake runtime: kernel launches.
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "tests/emulator/device.h"
#include "tests/emulator/include/cuda_runtime.h"
#include "tests/emulator/report.h"
#include "tests/emulator/submit.h"

namespace emu {
namespace {

constexpr size_t kDefaultSharedBytes = 48 * 1024;

std::mutex functions_mutex;

// Dynamic shared memory that a kernel was allowed beyond 48 KB, by function.
std::map<const void*, size_t>& SharedLimits() {
  static std::map<const void*, size_t> limits;
  return limits;
}

cudaError_t CheckConfig(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.z > 64) return cudaErrorInvalidConfiguration;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaErrorInvalidConfiguration;
  if (grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    if (config.attrs[i].id != cudaLaunchAttributeProgrammaticStreamSerialization) {
      return cudaErrorNotSupported;
    }
  }
  const std::lock_guard lock(functions_mutex);
  const auto found = SharedLimits().find(kernel);
  const size_t limit = found == SharedLimits().end() ? kDefaultSharedBytes : found->second;
  return config.dynamicSmemBytes > limit ? cudaErrorInvalidValue : cudaSuccess;
}

bool StartsEarly(const cudaLaunchConfig_t& config) {
  return config.numAttrs > 0 && config.attrs[0].val.programmaticStreamSerializationAllowed != 0;
}

}  // namespace

cudaError_t LaunchKernel(const cudaLaunchConfig_t& config, const void* kernel, InvokeKernel invoke,
                         const void* parameters, size_t parameter_bytes) {
  if (const cudaError_t error = CheckConfig(config, kernel)) return Fail(error);
  auto launch = std::make_shared<KernelLaunch>();
  launch->name = FunctionName(kernel);
  launch->config = config;
  launch->early = StartsEarly(config);
  launch->parameters.resize((parameter_bytes + sizeof(uint4) - 1) / sizeof(uint4));
  std::memcpy(launch->parameters.data(), parameters, parameter_bytes);
  launch->body = [kernel, invoke, copied = launch->parameters.data()] {
    kernel_thread = current_thread;
    invoke(kernel, copied);
    kernel_thread = nullptr;
  };
  return SubmitTo(config.stream, [&](Device& device) {
    return Request{.what = "kernel " + launch->name, .make = [&device, launch] {
                     return [&device, launch] { device.RunKernel(*launch); };
                   }};
  });
}

}  // namespace emu

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {.ptxVersion = 90, .binaryVersion = 90};
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  int limit = 0;
  cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, emu::current_device);
  if (value < 0 || value > limit) return emu::Fail(cudaErrorInvalidValue);
  const std::lock_guard lock(emu::functions_mutex);
  emu::SharedLimits()[function] = static_cast<size_t>(value);
  return cudaSuccess;
}
