// Writes a safetensors file whose tensors are known by name, dtype and shape beforehand, in any
// order and one at a time, so that memory holds one. The bytes go to a file beside `path`, which
// takes its name only when it is complete and on the disk: there is never half a file under that
// name. Tensors stand aligned: 4-byte dtypes first, then 2-byte, then 1-byte. Threads may
// write different tensors at once.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/tensor.h"

namespace intermix {

struct SafetensorsSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

class SafetensorsWriter {
 public:
  // INVALID_ARGUMENT: a name given twice. UNAVAILABLE naming the path: the disk refuses, or has too
  // little space.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, std::vector<SafetensorsSpec> tensors);
  ~SafetensorsWriter();  // drops the file unless Finish succeeded
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The whole of tensor `name`, contiguous, of the announced dtype and shape. Once each.
  absl::Status Write(const std::string& name, const Tensor& tensor);

  // Makes the file durable and gives it its name. FAILED_PRECONDITION: a tensor is missing.
  absl::Status Finish();

  int64_t file_bytes() const { return file_bytes_; }

 private:
  struct Place {
    SafetensorsSpec spec;
    int64_t offset = 0;  // in the file
    bool written = false;
  };

  SafetensorsWriter(std::string path, int fd);
  absl::Status Layout(std::vector<SafetensorsSpec> tensors);
  absl::Status WriteAt(int64_t offset, const void* data, int64_t bytes);
  absl::Status DiskError(const std::string& what) const;

  std::string path_;
  std::string temporary_;
  int fd_;
  int64_t file_bytes_ = 0;
  std::map<std::string, Place> places_;
};

}  // namespace intermix
