// What a device can do at best, as work to be timed beside the kernels: a fraction of a limit is
// only fair where both were measured in the same minute.
// A Limit owns what its run needs. Used by one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace intermix {

// What an op may be limited by.
enum class Resource : uint8_t {
  kInt8,   // multiplications and additions of int8, two for each product
  kFloat,  // of floats: float32 on CPUs, bfloat16 with float32 sums on GPUs
  kBytes,  // reading and writing the device's memory
};
inline constexpr int kNumResources = 3;

inline std::string_view Name(Resource resource) {
  constexpr std::string_view kNames[kNumResources] = {"int8", "float", "memory"};
  return kNames[static_cast<int>(resource)];
}

struct Limit {
  std::string name;  // "avx512 x2"
  Resource resource = Resource::kInt8;
  double amount = 0.0;        // operations or bytes of one run
  std::function<void()> run;  // returns when the device is done; milliseconds
};

}  // namespace intermix
