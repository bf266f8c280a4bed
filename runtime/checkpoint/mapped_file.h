// MappedFile: a whole file, mapped read-only; unmapped when the last shared_ptr goes.
// Pages are read when they are first touched. The file must not be truncated while it is mapped.
// Immutable; safe to use from several threads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace intermix {

class MappedFile {
 public:
  // NOT_FOUND or INVALID_ARGUMENT naming the path.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const uint8_t> bytes() const { return {static_cast<const uint8_t*>(data_), size_}; }

  // Lets go of the memory behind the whole pages in [begin, end); touching them reads them again.
  void Release(size_t begin, size_t end) const;

 private:
  MappedFile(void* data, size_t size) : data_(data), size_(size) {}

  void* data_;
  size_t size_;
};

}  // namespace intermix
