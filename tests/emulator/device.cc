#include "tests/emulator/device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "tests/emulator/fault.h"
#include "tests/emulator/region.h"
#include "tests/emulator/report.h"
#include "tests/emulator/shadow.h"

namespace emu {

constinit thread_local int current_device = 0;

namespace {

constexpr uint64_t kGapBytes = 64 * 1024;  // never mapped, between two allocations

uint64_t RoundToPages(uint64_t bytes) { return (bytes + kPageBytes - 1) & ~(kPageBytes - 1); }

struct DeviceTable {
  std::mutex mutex;
  Device* devices[kMaxDevices] = {};
};

DeviceTable& Table() {
  static DeviceTable* table = new DeviceTable();
  return *table;
}

}  // namespace

Device& Device::Get(int index) {
  const std::lock_guard lock(Table().mutex);
  Device*& device = Table().devices[index];
  if (device == nullptr) device = new Device(index);
  return *device;
}

Device* Device::Find(int index) {
  const std::lock_guard lock(Table().mutex);
  return Table().devices[index];
}

Device& CurrentDevice() { return Device::Get(current_device); }

Device::Device(int index)
    : index_(index), base_(DeviceBase(index)), used_span_(kSharedSpan), random_(GetOptions().seed) {
  InstallFaultHandler();
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

std::string Device::DescribeAddress(uintptr_t address) const {
  if (address - base_ < kSharedSpan) return "shared memory";
  auto after = live_.upper_bound(address);
  if (after != live_.begin()) {
    --after;
    const uint64_t offset = address - after->first;
    if (offset < RoundToPages(after->second)) {
      return "byte " + std::to_string(offset) + " of a device allocation of " +
             std::to_string(after->second) + " bytes";
    }
  }
  return WasFreed(address) ? "device memory that was freed" : "no device allocation";
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
  block.ordered_until = std::min(OrderedUntil(running_->before), block.launch_start);
  block.history = this;
  block.shadow = GetOptions().shadow;
  block.uninitialised = GetOptions().uninitialised;
}

void Device::RunKernel(const KernelLaunch& launch) {
  const Options& options = GetOptions();
  BlockState block;
  FillBlock(block, launch.name);
  block.grid = launch.config.gridDim;
  block.block = launch.config.blockDim;
  block.shared_bytes = launch.config.dynamicSmemBytes;
  block.parameters = reinterpret_cast<const char*>(launch.parameters.data());
  block.parameter_bytes = launch.parameters.size() * sizeof(uint4);
  block.order = &block_order_;
  block.early = launch.early;
  if (launch.early) block.early_until = std::min(OrderedUntil(early_), block.launch_start);
  block_order_.StartLaunch();
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
    if (runner_.Run(block, launch.body, options, random_)) continue;
    error = block.error;
    return;
  }
  if (block.lets_next_start) running_->shown = block.lets_before_wait ? early_ : running_->inputs;
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
  engine.ordered_until = block.ordered_until;
  current_thread = &engine;
  CheckAccess(engine, reinterpret_cast<uintptr_t>(address), bytes, 1,
              write ? Access::kWrite : Access::kRead);
  current_thread = nullptr;
}

}  // namespace emu
