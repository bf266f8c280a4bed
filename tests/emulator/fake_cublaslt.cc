// The fake cuBLASLt: one product, by the definition, when the stream reaches it. Column-major
// matrices of bfloat16 with float32 sums, or of int8 with int32 sums; alpha 1 and beta 0, as that
// is all that is asked for.
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "cublasLt.h"
#include "tests/emulator/submit.h"

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute;
  bool transposed[2];  // A, B
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  uint64_t rows;
  uint64_t cols;
  int64_t ld;

  size_t ElementBytes() const {
    if (type == CUDA_R_8I) return 1;
    return type == CUDA_R_16BF ? 2 : 4;
  }
  size_t Bytes() const {
    return rows * cols == 0 ? 0 : (static_cast<size_t>(ld) * (cols - 1) + rows) * ElementBytes();
  }
};
struct cublasLtMatmulPreferenceOpaque_t {};

namespace emu {
namespace {

using Layout = cublasLtMatrixLayoutOpaque_t;

float FromBf16(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

uint16_t ToBf16(float value) {  // to nearest, ties to even
  uint32_t word;
  std::memcpy(&word, &value, sizeof(word));
  if (value != value) return 0x7FFF;
  return static_cast<uint16_t>((word + 0x7FFF + (word >> 16 & 1)) >> 16);
}

struct Product {
  cublasLtMatmulDescOpaque_t desc;
  Layout a, b, d;
  const char* a_data;
  const char* b_data;
  char* d_data;

  // Element (row, col) of op(A) or op(B).
  template <typename T>
  static T At(const Layout& layout, const char* data, bool transposed, uint64_t row, uint64_t col) {
    if (transposed) std::swap(row, col);
    const uint64_t index = col * static_cast<uint64_t>(layout.ld) + row;
    if constexpr (std::is_same_v<T, float>) {
      uint16_t bits;
      std::memcpy(&bits, data + 2 * index, 2);
      return FromBf16(bits);
    } else {
      return static_cast<signed char>(data[index]);
    }
  }

  // Element (row, col) of the product; T is what is summed.
  template <typename T>
  T Dot(uint64_t row, uint64_t col) const {
    const uint64_t k = desc.transposed[0] ? a.rows : a.cols;
    T sum = 0;
    for (uint64_t i = 0; i < k; ++i) {
      sum += At<T>(a, a_data, desc.transposed[0], row, i) *
             At<T>(b, b_data, desc.transposed[1], i, col);
    }
    return sum;
  }

  void Run(Device& device) const {
    device.TouchMemory("cuBLASLt", a_data, a.Bytes(), false);
    device.TouchMemory("cuBLASLt", b_data, b.Bytes(), false);
    for (uint64_t col = 0; col < d.cols; ++col) {
      char* to = d_data + col * static_cast<uint64_t>(d.ld) * d.ElementBytes();
      device.TouchMemory("cuBLASLt", to, d.rows * d.ElementBytes(), true);
      for (uint64_t row = 0; row < d.rows; ++row) {
        if (d.type == CUDA_R_32I) {
          const auto sum = Dot<int32_t>(row, col);
          std::memcpy(to + 4 * row, &sum, 4);
        } else if (d.type == CUDA_R_16BF) {
          const uint16_t bits = ToBf16(Dot<float>(row, col));
          std::memcpy(to + 2 * row, &bits, 2);
        } else {
          const auto sum = Dot<float>(row, col);
          std::memcpy(to + 4 * row, &sum, 4);
        }
      }
    }
  }
};

bool TypesFit(const cublasLtMatmulDescOpaque_t& desc, const Layout& a, const Layout& b,
              const Layout& d) {
  if (desc.compute == CUBLAS_COMPUTE_32F) {
    return a.type == CUDA_R_16BF && b.type == CUDA_R_16BF &&
           (d.type == CUDA_R_16BF || d.type == CUDA_R_32F);
  }
  // cuBLASLt's own rule for int8: A transposed, B not, and sizes that are multiples of 4.
  return a.type == CUDA_R_8I && b.type == CUDA_R_8I && d.type == CUDA_R_32I && desc.transposed[0] &&
         !desc.transposed[1] && a.rows % 4 == 0 && d.rows % 4 == 0 && a.ld % 4 == 0 &&
         b.ld % 4 == 0;
}

// Inner and outer sizes that fit each other, in types that this fake has.
bool Fits(const cublasLtMatmulDescOpaque_t& desc, const Layout& a, const Layout& b,
          const Layout& d) {
  const auto rows = [](const Layout& m, bool t) { return t ? m.cols : m.rows; };
  const auto cols = [](const Layout& m, bool t) { return t ? m.rows : m.cols; };
  const bool ld = a.ld >= static_cast<int64_t>(a.rows) && b.ld >= static_cast<int64_t>(b.rows) &&
                  d.ld >= static_cast<int64_t>(d.rows);
  return ld && TypesFit(desc, a, b, d) && rows(a, desc.transposed[0]) == d.rows &&
         cols(b, desc.transposed[1]) == d.cols &&
         cols(a, desc.transposed[0]) == rows(b, desc.transposed[1]);
}

}  // namespace
}  // namespace emu

extern "C" {

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "success";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "invalid value";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "execution failed";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "not supported";
  }
  return "unknown";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext();
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (scale != (compute == CUBLAS_COMPUTE_32I ? CUDA_R_32I : CUDA_R_32F)) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  *desc = new cublasLtMatmulDescOpaque_t{.compute = compute, .transposed = {}};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  cublasOperation_t operation;
  if (bytes != sizeof(operation)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&operation, value, sizeof(operation));
  desc->transposed[attribute == CUBLASLT_MATMUL_DESC_TRANSA ? 0 : 1] = operation == CUBLAS_OP_T;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t{type, rows, cols, ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t();
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, size_t bytes) {
  return bytes == sizeof(size_t) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* count) {
  *count = wanted > 0 && emu::Fits(*desc, *a, *b, *d) ? 1 : 0;
  if (*count == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  results[0] = {};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void*,
                              cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t*, void*, size_t, cudaStream_t stream) {
  const float one = 1.0f;
  const int32_t int_one = 1;
  const void* wanted =
      desc->compute == CUBLAS_COMPUTE_32I ? static_cast<const void*>(&int_one) : &one;
  int32_t zero;  // also the bits of 0.0f
  std::memcpy(&zero, beta, sizeof(zero));
  const bool plain = std::memcmp(alpha, wanted, sizeof(int32_t)) == 0 && zero == 0;
  if (!plain || !emu::Fits(*desc, *a_layout, *b_layout, *d_layout)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const emu::Product product = {*desc,
                                *a_layout,
                                *b_layout,
                                *d_layout,
                                static_cast<const char*>(a),
                                static_cast<const char*>(b),
                                static_cast<char*>(d)};
  const cudaError_t error = emu::SubmitTo(stream, [product](emu::Device& device) {
    return emu::Request{.what = "cuBLASLt", .make = [&device, product] {
                          return [&device, product] { product.Run(device); };
                        }};
  });
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
