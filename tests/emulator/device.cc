#include "tests/emulator/device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "tests/emulator/region.h"
#include "tests/emulator/report.h"
#include "tests/emulator/shadow.h"

namespace emu {

constinit thread_local int current_device = 0;

namespace {

constexpr uint64_t kGapBytes = 64 * 1024;  // never mapped, between two allocations

uint64_t RoundToPages(uint64_t bytes) { return (bytes + kPageBytes - 1) & ~(kPageBytes - 1); }

}  // namespace

Device& Device::Get(int index) {
  static std::mutex devices_mutex;
  static Device* devices[kMaxDevices] = {};
  const std::lock_guard lock(devices_mutex);
  if (devices[index] == nullptr) devices[index] = new Device(index);
  return *devices[index];
}

Device& CurrentDevice() { return Device::Get(current_device); }

Device::Device(int index)
    : index_(index), base_(DeviceBase(index)), used_span_(kSharedSpan), random_(GetOptions().seed) {
  ReserveDevice(index);
  CreateStream(true);
}

cudaError_t Device::Allocate(void** pointer, size_t bytes) {
  if (bytes == 0) {
    *pointer = nullptr;
    return cudaSuccess;
  }
  const uint64_t pages = RoundToPages(bytes);
  if (bytes > free_bytes()) return cudaErrorMemoryAllocation;
  if (used_span_ + pages + 2 * kGapBytes > kDeviceSpan) {
    Violate(Violation::kInvalidArgument, "the emulated device has no addresses left");
    return cudaErrorMemoryAllocation;
  }
  const uintptr_t begin = base_ + used_span_ + kGapBytes;
  used_span_ += pages + 2 * kGapBytes;
  live_[begin] = bytes;
  live_bytes_ += bytes;
  SetValid(begin, bytes);
  OpenMemory();
  std::memset(reinterpret_cast<void*>(begin), kPoisonByte, bytes);
  CloseMemory();
  *pointer = reinterpret_cast<void*>(begin);
  return cudaSuccess;
}

cudaError_t Device::Free(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  const auto found = live_.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == live_.end()) return cudaErrorInvalidValue;
  RunAll();  // cudaFree waits for the device
  const auto [begin, bytes] = *found;
  live_.erase(found);
  live_bytes_ -= bytes;
  freed_[begin] = bytes;
  ClearValid(begin, bytes);
  DropPages(begin, bytes);
  return cudaSuccess;
}

bool Device::Holds(const void* pointer, size_t bytes) const {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  auto after = live_.upper_bound(address);
  if (after == live_.begin()) return false;
  --after;
  return address - after->first <= after->second &&
         bytes <= after->second - (address - after->first);
}

bool Device::WasFreed(uintptr_t address) const {
  auto after = freed_.upper_bound(address);
  if (after == freed_.begin()) return false;
  --after;
  return address - after->first < after->second;
}

uint64_t Device::free_bytes() const {
  const uint64_t total = GetOptions().device_memory_bytes;
  return total > live_bytes_ ? total - live_bytes_ : 0;
}

void Device::Reset() {
  error = cudaSuccess;
  RunAll();
  while (!live_.empty()) Free(reinterpret_cast<void*>(live_.begin()->first));
}

void Device::OpenMemory() {
  if (open_++ == 0) ProtectDevice(index_, used_span_, true);
}

void Device::CloseMemory() {
  if (--open_ == 0 && GetOptions().protect) ProtectDevice(index_, used_span_, false);
}

void Device::FillBlock(BlockState& block, const std::string& name) {
  block.name = name;
  block.device_base = base_;
  block.time = &time_;
  block.launch_start = block.start = block.barrier = block.Tick();
  block.ordered_until = std::min(OrderedUntil(), block.launch_start);
  block.history = this;
  block.shadow = GetOptions().shadow;
  block.uninitialised = GetOptions().uninitialised;
}

void Device::RunKernel(const std::string& name, const cudaLaunchConfig_t& config,
                       const std::function<void()>& body) {
  const Options& options = GetOptions();
  BlockState block;
  FillBlock(block, name);
  block.grid = config.gridDim;
  block.block = config.blockDim;
  block.shared_bytes = config.dynamicSmemBytes;
  ClearValid(base_, shared_high_);
  SetValid(base_, block.shared_bytes);
  shared_high_ = std::max<uint64_t>(shared_high_, block.shared_bytes);

  std::vector<uint64_t> order(uint64_t{block.grid.x} * block.grid.y * block.grid.z);
  std::iota(order.begin(), order.end(), 0);
  if (options.order == Order::kReversed) std::reverse(order.begin(), order.end());
  if (options.order == Order::kSeeded) std::shuffle(order.begin(), order.end(), random_);
  for (const uint64_t i : order) {
    block.index = {static_cast<unsigned>(i % block.grid.x),
                   static_cast<unsigned>(i / block.grid.x % block.grid.y),
                   static_cast<unsigned>(i / (uint64_t{block.grid.x} * block.grid.y))};
    block.start = block.barrier = block.Tick();
    std::memset(reinterpret_cast<void*>(base_), kPoisonByte, block.shared_bytes);
    if (runner_.Run(block, body, options, random_)) continue;
    error = cudaErrorLaunchFailure;
    return;
  }
}

void Device::TouchMemory(const std::string& what, const void* address, size_t bytes, bool write) {
  if (!GetOptions().shadow || bytes == 0) return;
  BlockState block;
  FillBlock(block, what);
  WarpState warp = {.index = 0, .num_lanes = 1, .stamp = block.start};
  ThreadState engine;
  engine.warp = &warp;
  engine.block = &block;
  engine.stamp = block.start;
  current_thread = &engine;
  CheckAccess(engine, reinterpret_cast<uintptr_t>(address), bytes, 1,
              write ? Access::kWrite : Access::kRead);
  current_thread = nullptr;
}

}  // namespace emu
