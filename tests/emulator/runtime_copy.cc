// The fake runtime: copies, fills, and pinned host memory.
#include <sys/mman.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/emulator/device.h"
#include "tests/emulator/host_memory.h"
#include "tests/emulator/include/cuda_runtime.h"
#include "tests/emulator/region.h"
#include "tests/emulator/shadow.h"
#include "tests/emulator/submit.h"

namespace emu {
namespace {

struct Copy {
  HostRows to;  // rows of either memory
  HostRows from;
  bool to_device;
  bool from_device;
  bool synchronous;
};

bool IsDevice(const void* pointer) { return InRegion(reinterpret_cast<uintptr_t>(pointer)); }

size_t Extent(const HostRows& rows) { return rows.pitch * (rows.height - 1) + rows.width; }

// The direction that the addresses have, or an error where `kind` says another.
cudaError_t CheckCopy(const Copy& copy, cudaMemcpyKind kind) {
  const int actual = (copy.to_device ? 1 : 0) + (copy.from_device ? 2 : 0);
  if (kind != cudaMemcpyDefault && actual != kind) return cudaErrorInvalidValue;
  for (const HostRows* rows : {&copy.to, &copy.from}) {
    if (rows->width > rows->pitch) return cudaErrorInvalidValue;
    if (!IsDevice(rows->begin)) continue;
    const Device& owner = Device::Get(DeviceOf(reinterpret_cast<uintptr_t>(rows->begin)));
    if (!owner.Holds(rows->begin, Extent(*rows))) return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

void MoveRows(const HostRows& to, const char* from, size_t from_pitch) {
  for (size_t r = 0; r < to.height; ++r) {
    std::memmove(to.begin + r * to.pitch, from + r * from_pitch, to.width);
  }
}

// Opens the memory of a peer, too, where a copy goes between two devices.
class PeerAccess {
 public:
  PeerAccess(const Device& device, const void* a, const void* b) {
    for (const void* pointer : {a, b}) {
      if (!IsDevice(pointer)) continue;
      Device& owner = Device::Get(DeviceOf(reinterpret_cast<uintptr_t>(pointer)));
      if (&owner == &device || &owner == peer_) continue;
      peer_ = &owner;
      lock_ = std::unique_lock(owner.mutex);
      owner.OpenMemory();
    }
  }
  ~PeerAccess() {
    if (peer_ != nullptr) peer_->CloseMemory();
  }
  PeerAccess(const PeerAccess&) = delete;
  PeerAccess& operator=(const PeerAccess&) = delete;

 private:
  Device* peer_ = nullptr;
  std::unique_lock<std::recursive_mutex> lock_;
};

std::function<void()> MakeCopy(Device& device, const Copy& copy, const std::string& what) {
  // From pageable memory the runtime copies before the call returns; pinned memory is read later.
  std::shared_ptr<std::vector<char>> staged;
  std::function<void()> check;
  if (!copy.from_device && !copy.synchronous && !IsPinned(copy.from.begin)) {
    staged =
        std::make_shared<std::vector<char>>(copy.from.begin, copy.from.begin + Extent(copy.from));
  } else if (!copy.from_device && !copy.synchronous) {
    check = WatchSource(what, copy.from);
  }
  std::function<void()> arrive;
  if (!copy.to_device && !copy.synchronous) arrive = PoisonDestination(what, copy.to);
  return [&device, copy, what, staged, check = std::move(check), arrive = std::move(arrive)] {
    const PeerAccess peer(device, copy.to.begin, copy.from.begin);
    if (check) check();
    if (arrive) arrive();
    if (copy.from_device) device.TouchMemory(what, copy.from.begin, Extent(copy.from), false);
    if (copy.to_device) device.TouchMemory(what, copy.to.begin, Extent(copy.to), true);
    MoveRows(copy.to, staged != nullptr ? staged->data() : copy.from.begin, copy.from.pitch);
  };
}

cudaError_t SubmitCopy(const Copy& copy, cudaMemcpyKind kind, cudaStream_t stream) {
  if (copy.to.width == 0 || copy.to.height == 0) return cudaSuccess;
  if (const cudaError_t error = CheckCopy(copy, kind)) return Fail(error);
  const cudaError_t error = SubmitTo(stream, [&](Device& device) {
    const std::string what = std::string(copy.synchronous ? "cudaMemcpy" : "cudaMemcpyAsync") +
                             " of " + std::to_string(copy.to.width * copy.to.height) + " bytes";
    return Request{.what = what,
                   .make = [&device, copy, what] { return MakeCopy(device, copy, what); }};
  });
  if (error != cudaSuccess || copy.to_device || copy.synchronous || IsPinned(copy.to.begin)) {
    return error;
  }
  // To pageable memory the runtime copies before the call returns.
  Device& device = DeviceOfStream(stream);
  const std::lock_guard lock(device.mutex);
  CUstream_st* queued_on = device.Resolve(stream);
  if (queued_on->capture == nullptr) device.RunUntil(queued_on->last);
  return Fail(device.error);
}

Copy RowCopy(void* to, const void* from, size_t bytes, bool synchronous) {
  char* source = const_cast<char*>(static_cast<const char*>(from));
  return {.to = {static_cast<char*>(to), bytes, bytes, 1},
          .from = {source, bytes, bytes, 1},
          .to_device = IsDevice(to),
          .from_device = IsDevice(from),
          .synchronous = synchronous};
}

}  // namespace
}  // namespace emu

using emu::Device;
using emu::Fail;

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return emu::SubmitCopy(emu::RowCopy(to, from, bytes, false), kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width_bytes, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  emu::Copy copy = emu::RowCopy(to, from, width_bytes, false);
  copy.to.pitch = to_pitch;
  copy.from.pitch = from_pitch;
  copy.to.height = copy.from.height = height;
  return emu::SubmitCopy(copy, kind, stream);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  {
    Device& device = emu::CurrentDevice();
    const std::lock_guard lock(device.mutex);
    if (device.HasCapture()) return Fail(cudaErrorStreamCaptureUnsupported);
  }
  const cudaError_t error = emu::SubmitCopy(emu::RowCopy(to, from, bytes, true), kind, nullptr);
  return error != cudaSuccess ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  const bool held = emu::IsDevice(to) &&
                    Device::Get(emu::DeviceOf(reinterpret_cast<uintptr_t>(to))).Holds(to, bytes);
  if (!held) return Fail(cudaErrorInvalidValue);
  return emu::SubmitTo(stream, [=](Device& device) {
    const std::string what = "cudaMemset of " + std::to_string(bytes) + " bytes";
    return emu::Request{.what = what, .make = [&device, what, to, value, bytes] {
                          return [&device, what, to, value, bytes] {
                            device.TouchMemory(what, to, bytes, true);
                            std::memset(to, value, bytes);
                          };
                        }};
  });
}

// Asynchronous to the host, as on real devices.
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes, unsigned int) {
  *pointer = nullptr;
  if (const cudaError_t sticky = emu::CurrentDevice().error) return Fail(sticky);
  if (bytes == 0) return cudaSuccess;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return Fail(cudaErrorMemoryAllocation);
  std::memset(memory, emu::kPoisonByte, bytes);
  emu::AddPinned(memory, bytes);
  *pointer = memory;
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned int flags) {
  return cudaMallocHost(pointer, bytes, flags);
}

cudaError_t cudaFreeHost(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  for (int d = 0; d < emu::kMaxDevices; ++d) {  // waits for copies that use it
    Device* device = Device::Find(d);
    if (device == nullptr) continue;
    const std::lock_guard lock(device->mutex);
    device->RunAll();
  }
  const size_t bytes = emu::RemovePinned(pointer);
  if (bytes == 0) return Fail(cudaErrorInvalidValue);
  munmap(pointer, bytes);
  return cudaSuccess;
}

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned int) {
  if (pointer == nullptr || bytes == 0) return Fail(cudaErrorInvalidValue);
  return emu::AddPinned(pointer, bytes) ? cudaSuccess : Fail(cudaErrorHostMemoryAlreadyRegistered);
}

cudaError_t cudaHostUnregister(void* pointer) {
  return emu::RemovePinned(pointer) > 0 ? cudaSuccess : Fail(cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  void* address = const_cast<void*>(pointer);
  *attributes = {.type = cudaMemoryTypeUnregistered,
                 .device = -1,
                 .devicePointer = nullptr,
                 .hostPointer = address};
  if (emu::IsDevice(pointer)) {
    *attributes = {.type = cudaMemoryTypeDevice,
                   .device = emu::DeviceOf(reinterpret_cast<uintptr_t>(pointer)),
                   .devicePointer = address,
                   .hostPointer = nullptr};
  } else if (emu::IsPinned(pointer)) {
    *attributes = {.type = cudaMemoryTypeHost,
                   .device = emu::current_device,
                   .devicePointer = address,
                   .hostPointer = address};
  }
  return cudaSuccess;
}
