// The fake cuBLASLt: one product, by the definition, when the stream reaches it. Column-major
// bfloat16 matrices, float32 sums; alpha 1 and beta 0, as that is all that is asked for.
#include <cstring>
#include <string>
#include <vector>

#include "cublasLt.h"
#include "tests/emulator/submit.h"

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
  bool transposed[2];  // A, B
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  uint64_t rows;
  uint64_t cols;
  int64_t ld;

  size_t ElementBytes() const { return type == CUDA_R_16BF ? 2 : 4; }
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
  static float At(const Layout& layout, const char* data, bool transposed, uint64_t row,
                  uint64_t col) {
    if (transposed) std::swap(row, col);
    uint16_t bits;
    std::memcpy(&bits, data + 2 * (col * static_cast<uint64_t>(layout.ld) + row), 2);
    return FromBf16(bits);
  }

  void Run(Device& device) const {
    device.TouchMemory("cuBLASLt", a_data, a.Bytes(), false);
    device.TouchMemory("cuBLASLt", b_data, b.Bytes(), false);
    const uint64_t k = desc.transposed[0] ? a.rows : a.cols;
    for (uint64_t col = 0; col < d.cols; ++col) {
      char* to = d_data + col * static_cast<uint64_t>(d.ld) * d.ElementBytes();
      device.TouchMemory("cuBLASLt", to, d.rows * d.ElementBytes(), true);
      for (uint64_t row = 0; row < d.rows; ++row) {
        float sum = 0.0f;
        for (uint64_t i = 0; i < k; ++i) {
          sum +=
              At(a, a_data, desc.transposed[0], row, i) * At(b, b_data, desc.transposed[1], i, col);
        }
        if (d.type == CUDA_R_16BF) {
          const uint16_t bits = ToBf16(sum);
          std::memcpy(to + 2 * row, &bits, 2);
        } else {
          std::memcpy(to + 4 * row, &sum, 4);
        }
      }
    }
  }
};

// Inner and outer sizes that fit each other, in types that this fake has.
bool Fits(const cublasLtMatmulDescOpaque_t& desc, const Layout& a, const Layout& b,
          const Layout& d) {
  const auto rows = [](const Layout& m, bool t) { return t ? m.cols : m.rows; };
  const auto cols = [](const Layout& m, bool t) { return t ? m.rows : m.cols; };
  const bool ld = a.ld >= static_cast<int64_t>(a.rows) && b.ld >= static_cast<int64_t>(b.rows) &&
                  d.ld >= static_cast<int64_t>(d.rows);
  return ld && a.type == CUDA_R_16BF && b.type == CUDA_R_16BF &&
         rows(a, desc.transposed[0]) == d.rows && cols(b, desc.transposed[1]) == d.cols &&
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

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t,
                                        cudaDataType_t) {
  *desc = new cublasLtMatmulDescOpaque_t();
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
  float scales[2];
  std::memcpy(scales, alpha, sizeof(float));
  std::memcpy(scales + 1, beta, sizeof(float));
  const bool plain = scales[0] == 1.0f && scales[1] == 0.0f;
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
