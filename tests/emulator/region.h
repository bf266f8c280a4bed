// The emulated devices' address space: fixed addresses, so that one subtraction tells a device
// address from any other and finds its shadow.
//
// Device d owns kDeviceSpan bytes from DeviceBase(d): first a window for the shared memory of the
// block that runs, then its global memory. Each page has a count of how many of its bytes, from its
// start, may be touched; each 4 bytes have a shadow cell (shadow.h). Nothing here locks; a device
// is driven by one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emu {

inline constexpr uintptr_t kRegionBase = 0x2000'0000'0000;
inline constexpr int kMaxDevices = 16;
inline constexpr uint64_t kDeviceSpan = uint64_t{1} << 35;
inline constexpr uint64_t kRegionSpan = kDeviceSpan * kMaxDevices;
inline constexpr uint64_t kSharedSpan = uint64_t{1} << 20;  // the window; kernels get up to 227 KB
inline constexpr uint64_t kPageBytes = 4096;
inline constexpr uintptr_t kValidBase = 0x2090'0000'0000;     // uint16 a page
inline constexpr uintptr_t kCellBase = 0x2100'0000'0000;      // 16 bytes for every 4
inline constexpr uintptr_t kByteCellBase = 0x3000'0000'0000;  // 16 bytes for every byte

inline bool InRegion(uintptr_t address) { return address - kRegionBase < kRegionSpan; }
inline uintptr_t DeviceBase(int device) { return kRegionBase + kDeviceSpan * device; }
inline int DeviceOf(uintptr_t address) {
  return static_cast<int>((address - kRegionBase) / kDeviceSpan);
}

// How many bytes of the page that holds `address` may be touched.
inline uint16_t& ValidBytes(uintptr_t address) {
  return reinterpret_cast<uint16_t*>(kValidBase)[(address - kRegionBase) / kPageBytes];
}

// True where [address, address + bytes), within one page, lies in live memory.
inline bool Addressable(uintptr_t address, size_t bytes) {
  return (address & (kPageBytes - 1)) + bytes <= ValidBytes(address);
}

// Reserves the addresses of a device and its shadow; costs no memory until touched.
void ReserveDevice(int device);
// Lets [begin, begin + bytes) be touched (pages are made so from `begin`, a page boundary), or
// none.
void SetValid(uintptr_t begin, uint64_t bytes);
void ClearValid(uintptr_t begin, uint64_t bytes);
// Gives memory and shadow of whole pages back to the system; they read as zero afterwards.
void DropPages(uintptr_t begin, uint64_t bytes);
// Opens or closes [DeviceBase, DeviceBase + bytes) to every access of this process.
void ProtectDevice(int device, uint64_t bytes, bool open);

}  // namespace emu
