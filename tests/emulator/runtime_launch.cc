// The fake runtime: kernel launches.
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
  if (config.numAttrs != 0) return cudaErrorNotSupported;
  const std::lock_guard lock(functions_mutex);
  const auto found = SharedLimits().find(kernel);
  const size_t limit = found == SharedLimits().end() ? kDefaultSharedBytes : found->second;
  return config.dynamicSmemBytes > limit ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace

cudaError_t LaunchKernel(const cudaLaunchConfig_t& config, const void* kernel,
                         std::function<void()> body) {
  if (const cudaError_t error = CheckConfig(config, kernel)) return Fail(error);
  auto shared_body = std::make_shared<const std::function<void()>>(std::move(body));
  return SubmitTo(config.stream, [&](Device& device) {
    const std::string name = FunctionName(kernel);
    return Request{.what = "kernel " + name, .make = [&device, name, config, shared_body] {
                     return [&device, name, config, shared_body] {
                       device.RunKernel(name, config, *shared_body);
                     };
                   }};
  });
}

}  // namespace emu

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  int limit = 0;
  cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, emu::current_device);
  if (value < 0 || value > limit) return emu::Fail(cudaErrorInvalidValue);
  const std::lock_guard lock(emu::functions_mutex);
  emu::SharedLimits()[function] = static_cast<size_t>(value);
  return cudaSuccess;
}
