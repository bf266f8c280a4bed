#include "kernels/core/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kernels/core/int_math.h"

namespace intermix {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMinChunk = size_t{1} << 20;

int64_t NumElements(std::initializer_list<int64_t> shape) {
  int64_t n = 1;
  for (int64_t extent : shape) n *= extent;
  return n;
}

}  // namespace

Buffer Buffer::Host(size_t bytes) {
  const bool huge = bytes >= 2 * kHugePage;
  const size_t alignment = huge ? kHugePage : kAlignment;
  const size_t size = std::max(RoundUp(bytes, alignment), alignment);
  void* data = std::aligned_alloc(alignment, size);
  CHECK(data != nullptr) << "out of memory: " << size << " bytes";
  if (huge) madvise(data, size, MADV_HUGEPAGE);  // only advice; small pages work as well
  std::memset(data, 0, size);
  return Buffer(data, bytes, Device::kCpu, [](void* p) { std::free(p); });
}

Buffer Buffer::HostUntouched(size_t bytes) {
  if (bytes < 2 * kHugePage) return Host(bytes);
  const size_t mapped = RoundUp(bytes, kHugePage) + kHugePage;
  void* area = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(area != MAP_FAILED) << "out of memory: " << mapped << " bytes";
  char* data = static_cast<char*>(area) + (RoundUp(reinterpret_cast<uintptr_t>(area), kHugePage) -
                                           reinterpret_cast<uintptr_t>(area));
  // The last part of a page stays in small pages, so that it costs no more than it holds.
  madvise(data, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // only advice
  return Buffer(data, bytes, Device::kCpu, [area, mapped](void*) { munmap(area, mapped); });
}

Tensor Buffer::View(DType dtype, std::initializer_list<int64_t> shape, size_t offset) const {
  Tensor view(static_cast<char*>(data()) + offset, dtype, shape, device_);
  CHECK_LE(offset + static_cast<size_t>(view.bytes()), bytes_);
  return view;
}

OwnedTensor OwnedTensor::Host(DType dtype, std::initializer_list<int64_t> shape) {
  Buffer buffer = Buffer::Host(static_cast<size_t>(NumElements(shape)) * ByteSize(dtype));
  const Tensor view = buffer.View(dtype, shape);
  return {.buffer = std::move(buffer), .view = view};
}

Tensor Workspace::Take(DType dtype, std::initializer_list<int64_t> shape) {
  const size_t bytes =
      RoundUp(static_cast<size_t>(NumElements(shape)) * ByteSize(dtype), kAlignment);
  while (current_ < chunks_.size() &&
         chunks_[current_].used + bytes > chunks_[current_].buffer.bytes()) {
    ++current_;
    if (current_ < chunks_.size()) chunks_[current_].used = 0;
  }
  if (current_ == chunks_.size()) {
    chunks_.push_back({allocate_(std::max({bytes, kMinChunk, capacity_bytes()})), 0});
  }
  Chunk& chunk = chunks_[current_];
  Tensor view = chunk.buffer.View(dtype, shape, chunk.used);
  chunk.used += bytes;
  return view;
}

Workspace::Scope::Scope(Workspace& workspace)
    : workspace_(workspace),
      chunk_(workspace.current_),
      used_(chunk_ < workspace.chunks_.size() ? workspace.chunks_[chunk_].used : 0) {}

Workspace::Scope::~Scope() {
  workspace_.current_ = chunk_;
  if (chunk_ < workspace_.chunks_.size()) workspace_.chunks_[chunk_].used = used_;
}

size_t Workspace::capacity_bytes() const {
  size_t total = 0;
  for (const Chunk& chunk : chunks_) total += chunk.buffer.bytes();
  return total;
}

}  // namespace intermix
