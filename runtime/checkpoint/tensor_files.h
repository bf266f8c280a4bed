// TensorFiles: the tensors of a model directory by name, whether they stand in one
// model.safetensors or in the files of a model.safetensors.index.json. Immutable; safe to use from
// several threads.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/sharding.h"
#include "kernels/core/tensor.h"
#include "runtime/checkpoint/safetensors.h"

namespace intermix {

// Rows of a tensor: a view into the mapped file, or into a copy where the file is not aligned.
struct TensorRows {
  Tensor view;                        // the tensor's shape with fewer rows
  std::shared_ptr<const void> owner;  // of the memory behind the view
};

class TensorFiles {
 public:
  // Maps the files and checks their headers; touches no data.
  //   NOT_FOUND, INVALID_ARGUMENT naming the file.
  static absl::StatusOr<TensorFiles> Open(const std::string& directory);

  bool Contains(const std::string& name) const { return index_.contains(name); }

  // OK if tensor `name` is there with this shape.  NOT_FOUND, INVALID_ARGUMENT name the tensor.
  absl::Status CheckShape(const std::string& name, const std::vector<int64_t>& shape) const;

  // The shape of tensor `name`.  NOT_FOUND names it.
  absl::StatusOr<std::vector<int64_t>> Shape(const std::string& name) const;

  // The dtype of tensor `name`, if it is one of `allowed`.  NOT_FOUND, INVALID_ARGUMENT name it.
  absl::StatusOr<DType> CheckDType(const std::string& name,
                                   std::initializer_list<DType> allowed) const;

  // Indices `rows` along dimension 0 of tensor `name`, after both checks. Rank 1 or 2.
  absl::StatusOr<TensorRows> Rows(const std::string& name, const std::vector<int64_t>& shape,
                                  Slice rows, std::initializer_list<DType> allowed) const;

  // Bytes of tensor `name` in its file; 0 if it is not there.
  int64_t bytes(const std::string& name) const;

  // Gives back the memory that reading tensor `name` took; reading it again is legal.
  void Release(const std::string& name) const;

  // Whoever drops the last copy does what Release does; it may outlive this.
  std::shared_ptr<const void> ReleasedAtLast(const std::string& name) const;

 private:
  struct Location {
    const SafetensorsFile* file;
    const SafetensorsEntry* entry;
  };

  absl::StatusOr<Location> Find(const std::string& name) const;
  absl::Status AddIndexedFiles(const std::string& directory, const std::string& index_path);

  std::string directory_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Location> index_;
};

}  // namespace intermix
