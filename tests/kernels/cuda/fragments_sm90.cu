// Products of a warpgroup, on wgmma and on mma.sync, from one placement of A, B and D.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.h"
#include "tests/kernels/cuda/device_memory.h"
#include "tests/kernels/cuda/fragments.h"

namespace intermix::cuda {
namespace {

constexpr int kThreads = 128;  // of a warpgroup
constexpr int kDepth = kProductDepth;

// What a thread has of A and D.
template <int kColumns>
struct Operands {
  uint32_t a[kProductSteps][4];
  float d[kColumns / 8][4];
};

__device__ int Row() {
  return static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
}
__device__ int Column() { return static_cast<int>(threadIdx.x) % 4 * 2; }

template <int kColumns>
__device__ void Load(const uint32_t* a, const uint32_t* d, Operands<kColumns>& operands) {
  for (int i = 0; i < kProductSteps * 4; ++i) {
    const int row = Row() + i % 2 * 8;
    const int column = i / 4 * 16 + i % 4 / 2 * 8 + Column();
    operands.a[i / 4][i % 4] = a[(row * kDepth + column) / 2];
  }
  for (int i = 0; i < kColumns / 2; ++i) {
    const int row = Row() + i % 4 / 2 * 8;
    operands.d[i / 4][i % 4] = float_of_bits(d[row * kColumns + i / 4 * 8 + Column() + i % 2]);
  }
}

template <int kColumns>
__device__ void Store(const Operands<kColumns>& operands, uint32_t* d) {
  for (int i = 0; i < kColumns / 2; ++i) {
    const int row = Row() + i % 4 / 2 * 8;
    d[row * kColumns + i / 4 * 8 + Column() + i % 2] = bits_of_float(operands.d[i / 4][i % 4]);
  }
}

template <int kColumns, bool kTransposed>
__global__ void WgmmaKernel(const uint32_t* a, const uint32_t* b, const uint32_t* d,
                            uint32_t* out) {
  constexpr int kRows = kTransposed ? kDepth : kColumns;
  constexpr int kPieces = (kTransposed ? kColumns : kDepth) / 8;  // of 16 bytes, of a row
  char* rows = shared_memory();
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kPieces; i += kThreads) {
    const int row = i / kPieces;
    const int piece = i % kPieces;
    char* to = rows + piece / 8 * 8192 + row * 128 + (piece % 8 ^ row % 8) * 16;
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(b + i * 4);
  }
  fence_async_proxy();
  sync_block();
  Operands<kColumns> operands;
  Load(a, d, operands);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kProductSteps; ++step) {
    if constexpr (kColumns == 8) {
      wgmma_m64n8k16_bf16(operands.d[0], operands.a[step], rows, step * 32);
    } else if constexpr (!kTransposed) {
      wgmma_m64n64k16_bf16(operands.d, operands.a[step], rows, step * 32, step > 0);
    } else if constexpr (kColumns == 64) {
      wgmma_m64n64k16_bf16_trans(operands.d, operands.a[step], rows, step * 2048);
    } else {
      wgmma_m64n128k16_bf16_trans(operands.d, operands.a[step], rows, step * 2048);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_settle(operands.d);
  Store(operands, out);
}

template <int kColumns, bool kTransposed>
__global__ void MmaKernel(const uint32_t* a, const uint32_t* b, const uint32_t* d, uint32_t* out) {
  Operands<kColumns> operands;
  Load(a, d, operands);
  const auto* elements = reinterpret_cast<const uint16_t*>(b);
  for (int step = 0; step < kProductSteps; ++step) {
    for (int n = 0; n < kColumns / 8; ++n) {
      const int column = n * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
      uint32_t fragment[2] = {0, 0};
      for (int i = 0; i < 4; ++i) {
        const int k = step * 16 + i / 2 * 8 + Column() + i % 2;
        const int at = kTransposed ? k * kColumns + column : column * kDepth + k;
        fragment[i / 2] |= static_cast<uint32_t>(elements[at]) << i % 2 * 16;
      }
      if (!kTransposed && kColumns == 64 && step == 0) {  // it has `add`
        for (float& value : operands.d[n]) value = 0.0f;
      }
      mma_m16n8k16_bf16(operands.d[n], operands.a[step], fragment);
    }
  }
  Store(operands, out);
}

using Kernel = void (*)(const uint32_t*, const uint32_t*, const uint32_t*, uint32_t*);

std::vector<uint32_t> RunKernel(Kernel kernel, const Product& product,
                                const std::vector<uint32_t>& in) {
  const int words_a = product.words_a();
  const int words_b = product.words_b();
  CHECK_EQ(in.size(), static_cast<size_t>(words_a + words_b + product.words_d()));
  std::vector<uint32_t> out(static_cast<size_t>(product.words_d()));
  const size_t bytes = out.size() * sizeof(uint32_t);
  const DeviceMemory from = DeviceMemory::Copy(in);
  const DeviceMemory to = DeviceMemory::Zeros(bytes);
  const auto* words = from.at<uint32_t>();
  Launch("Product", kernel, {.grid = 1, .block = kThreads, .shared_bytes = 2 * 8192}, words,
         words + words_a, words + words_a + words_b, to.at<uint32_t>());
  CHECK_EQ(cudaMemcpy(out.data(), to.data(), bytes, cudaMemcpyDeviceToHost), cudaSuccess);
  return out;
}

}  // namespace

std::vector<uint32_t> RunProduct(const Product& product, const std::vector<uint32_t>& in) {
  return RunKernel(product.columns == 8    ? WgmmaKernel<8, false>
                   : !product.transposed   ? WgmmaKernel<64, false>
                   : product.columns == 64 ? WgmmaKernel<64, true>
                                           : WgmmaKernel<128, true>,
                   product, in);
}

std::vector<uint32_t> RunProductOnMma(const Product& product, const std::vector<uint32_t>& in) {
  return RunKernel(product.columns == 8    ? MmaKernel<8, false>
                   : !product.transposed   ? MmaKernel<64, false>
                   : product.columns == 64 ? MmaKernel<64, true>
                                           : MmaKernel<128, true>,
                   product, in);
}

}  // namespace intermix::cuda
