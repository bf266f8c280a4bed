#include "runtime/checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace intermix {
namespace {

using nlohmann::json;

constexpr int64_t kAlignment = 64;  // of the first tensor

int64_t BytesOf(const SafetensorsSpec& spec) {
  int64_t bytes = static_cast<int64_t>(ByteSize(spec.dtype));
  for (int64_t extent : spec.shape) bytes *= extent;
  return bytes;
}

bool HasShape(const Tensor& tensor, const std::vector<int64_t>& shape) {
  if (tensor.rank() != static_cast<int>(shape.size())) return false;
  for (int d = 0; d < tensor.rank(); ++d) {
    if (tensor.shape(d) != shape[d]) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, std::vector<SafetensorsSpec> tensors) {
  const int fd =
      open(absl::StrCat(path, ".tmp").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path, fd));
  if (fd < 0) return writer->DiskError("create");
  if (absl::Status s = writer->Layout(std::move(tensors)); !s.ok()) return s;
  return writer;
}

SafetensorsWriter::SafetensorsWriter(std::string path, int fd)
    : path_(std::move(path)), temporary_(absl::StrCat(path_, ".tmp")), fd_(fd) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

absl::Status SafetensorsWriter::DiskError(const std::string& what) const {
  return absl::UnavailableError(
      absl::StrCat("cannot ", what, " ", temporary_, ": ", std::strerror(errno)));
}

// Places the tensors and writes the header.
absl::Status SafetensorsWriter::Layout(std::vector<SafetensorsSpec> tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return ByteSize(a.dtype) > ByteSize(b.dtype);
  });
  json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t offset = 0;
  for (SafetensorsSpec& spec : tensors) {
    const int64_t end = offset + BytesOf(spec);
    header[spec.name] = {{"dtype", std::string(Name(spec.dtype))},
                         {"shape", spec.shape},
                         {"data_offsets", {offset, end}}};
    const std::string name = spec.name;
    if (!places_.try_emplace(name, Place{.spec = std::move(spec), .offset = offset}).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is there twice"));
    }
    offset = end;
  }
  std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
  while ((text.size() + 8) % kAlignment != 0) text += ' ';
  const int64_t data_begin = static_cast<int64_t>(text.size()) + 8;
  for (auto& [name, place] : places_) place.offset += data_begin;
  file_bytes_ = data_begin + offset;
  if (posix_fallocate(fd_, 0, file_bytes_) == ENOSPC) {
    errno = ENOSPC;
    return DiskError(absl::StrCat("reserve ", file_bytes_, " bytes for"));
  }
  std::string length;
  for (int i = 0; i < 8; ++i) length += static_cast<char>(uint64_t{text.size()} >> (8 * i));
  text = length + text;
  return WriteAt(0, text.data(), data_begin);
}

absl::Status SafetensorsWriter::WriteAt(int64_t offset, const void* data, int64_t bytes) {
  const char* rest = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = pwrite(fd_, rest, static_cast<size_t>(bytes), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return DiskError("write");
    rest += written;
    offset += written;
    bytes -= written;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Write(const std::string& name, const Tensor& tensor) {
  const auto it = places_.find(name);
  CHECK(it != places_.end()) << "tensor " << name << " was not announced";
  Place& place = it->second;
  CHECK(!place.written) << "tensor " << name << " is written twice";
  CHECK(tensor.contiguous() && tensor.dtype() == place.spec.dtype &&
        HasShape(tensor, place.spec.shape))
      << "tensor " << name << " is " << tensor.ToString() << ", not as announced";
  place.written = true;
  if (absl::Status s = WriteAt(place.offset, tensor.raw(), tensor.bytes()); !s.ok()) return s;
  // Only advice: the disk begins now, so that Finish waits for the last tensors alone.
  sync_file_range(fd_, place.offset, tensor.bytes(), SYNC_FILE_RANGE_WRITE);
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  for (const auto& [name, place] : places_) {
    if (place.written) continue;
    return absl::FailedPreconditionError(absl::StrCat("tensor ", name, " was never written"));
  }
  if (fsync(fd_) != 0) return DiskError("write");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) return DiskError("rename");
  close(fd_);
  fd_ = -1;
  return absl::OkStatus();
}

}  // namespace intermix
