// Tensor: a non-owning view of 1 to 4 dimensions; copying it copies the view, never the data.
// Constness is of the view: a `const Tensor&` may not be re-pointed, its elements may be written;
// by convention an op's inputs are `const Tensor&` and its outputs are `Tensor` by value.
// The last dimension is always contiguous; earlier ones may be strided (a slice of columns, say).
// Thread-safety: a value type.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace intermix {

enum class Device : uint8_t { kCpu, kCuda };

class Tensor {
 public:
  static constexpr int kMaxRank = 4;

  Tensor() = default;  // empty: no data, rank 0

  // A contiguous view of `data`.
  Tensor(void* data, DType dtype, std::initializer_list<int64_t> shape,
         Device device = Device::kCpu)
      : data_(data), dtype_(dtype), device_(device), rank_(static_cast<int>(shape.size())) {
    CHECK_LE(rank_, kMaxRank);
    int i = 0;
    for (int64_t extent : shape) shape_[i++] = extent;
    int64_t stride = 1;
    for (int d = rank_ - 1; d >= 0; --d) {
      stride_[d] = stride;
      stride *= shape_[d];
    }
  }

  bool empty() const { return rank_ == 0; }
  int rank() const { return rank_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int64_t shape(int d) const { return shape_[d]; }
  int64_t stride(int d) const { return stride_[d]; }  // in elements
  int64_t rows() const { return shape_[0]; }
  int64_t cols() const { return shape_[rank_ - 1]; }
  int64_t num_elements() const {
    int64_t n = rank_ == 0 ? 0 : 1;
    for (int d = 0; d < rank_; ++d) n *= shape_[d];
    return n;
  }
  int64_t bytes() const { return num_elements() * static_cast<int64_t>(ByteSize(dtype_)); }
  bool contiguous() const {
    int64_t stride = 1;
    for (int d = rank_ - 1; d >= 0; --d) {
      if (shape_[d] != 1 && stride_[d] != stride) return false;
      stride *= shape_[d];
    }
    return true;
  }

  void* raw() const { return data_; }

  // The first element; T must match the dtype.
  template <typename T>
  T* data() const {
    CHECK(kDTypeOf<T> == dtype_) << "tensor is " << Name(dtype_) << ", not " << Name(kDTypeOf<T>);
    return static_cast<T*>(data_);
  }
  // The first element of row `i` (of index i along dimension 0).
  template <typename T>
  T* row(int64_t i) const {
    return data<T>() + i * stride_[0];
  }

  // Rows [begin, end) along dimension 0.
  Tensor Rows(int64_t begin, int64_t end) const {
    CHECK(0 <= begin && begin <= end && end <= shape_[0])
        << begin << ".." << end << " of " << shape_[0];
    Tensor view = *this;
    view.data_ = static_cast<char*>(data_) + begin * stride_[0] * ElementBytes();
    view.shape_[0] = end - begin;
    return view;
  }
  // Columns [begin, end) along the last dimension.
  Tensor Cols(int64_t begin, int64_t end) const {
    CHECK(0 <= begin && begin <= end && end <= cols()) << begin << ".." << end << " of " << cols();
    Tensor view = *this;
    view.data_ = static_cast<char*>(data_) + begin * ElementBytes();
    view.shape_[rank_ - 1] = end - begin;
    return view;
  }
  // The sub-tensor at index `i` of dimension 0, of rank - 1.
  Tensor At(int64_t i) const {
    CHECK(rank_ > 1 && 0 <= i && i < shape_[0]) << i << " of " << shape_[0];
    Tensor view = *this;
    view.data_ = static_cast<char*>(data_) + i * stride_[0] * ElementBytes();
    view.rank_ = rank_ - 1;
    for (int d = 0; d < view.rank_; ++d) {
      view.shape_[d] = shape_[d + 1];
      view.stride_[d] = stride_[d + 1];
    }
    return view;
  }

  // The same elements of a contiguous tensor in another shape.
  Tensor Reshape(std::initializer_list<int64_t> shape) const {
    CHECK(contiguous());
    const Tensor view(data_, dtype_, shape, device_);
    CHECK_EQ(view.num_elements(), num_elements());
    return view;
  }

  // "BF16[3, 256]", for messages.
  std::string ToString() const {
    std::string text(Name(dtype_));
    for (int d = 0; d < rank_; ++d) text += (d == 0 ? "[" : ", ") + std::to_string(shape_[d]);
    return text + "]";
  }

 private:
  int64_t ElementBytes() const { return static_cast<int64_t>(ByteSize(dtype_)); }

  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  Device device_ = Device::kCpu;
  int rank_ = 0;
  std::array<int64_t, kMaxRank> shape_{};
  std::array<int64_t, kMaxRank> stride_{};
};

}  // namespace intermix
