// The first k elements of each row. Blocks find those of their parts of a row; the next kernel
// finds them among these, until one block has the whole row. Reading the rows is what takes time.
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_grid.h"
#include "kernels/cuda/top_k.h"
#include "kernels/operands.h"

namespace intermix::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kLaneKeys = 16;  // in registers
constexpr int kWarpKeys = kLaneKeys * kWarp;
constexpr int kBlockKeys = kWarps * kWarpKeys;

// An element as a key: its rank, then its column, so that the largest key comes first. No key is 0,
// which stands for no element.
__device__ uint64_t key_of(float value, int32_t column) {
  const uint32_t bits = bits_of_float(value);
  uint32_t rank = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  if (value == 0.0f) rank = 0x80000000u;
  if (value != value) rank = 0xFFFFFFFFu;
  return uint64_t{rank} << 32 | ~static_cast<uint32_t>(column);
}

__device__ int32_t column_of(uint64_t key) {
  return static_cast<int32_t>(~static_cast<uint32_t>(key));
}

__device__ uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

__device__ uint64_t warp_largest(uint64_t key) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const auto high = static_cast<uint32_t>(shfl_xor_s32(static_cast<int32_t>(key >> 32), mask));
    const auto low = static_cast<uint32_t>(shfl_xor_s32(static_cast<int32_t>(key), mask));
    key = larger(key, uint64_t{high} << 32 | low);
  }
  return key;
}

struct TopKParams {
  const float* x;
  int64_t x_stride;        // elements
  const uint64_t* before;  // [rows][n] what the kernel before found; null in the first one
  uint64_t* after;         // [rows][parts][k]; null in the last kernel
  float* values;
  int32_t* columns;
  int64_t values_stride;
  int64_t columns_stride;
  int32_t n;
  int32_t k;
};

// This lane's elements from column `first` of a row on. kWide: rows are 16-byte aligned.
template <bool kWide>
__device__ void load_elements(const TopKParams& p, const float* row, int32_t first,
                              uint64_t (&keys)[kLaneKeys]) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % kWarp);
#pragma unroll
  for (int group = 0; group < kLaneKeys / 4; ++group) {
    const int32_t column = first + (group * kWarp + lane) * 4;
    float x[4];
    if (kWide && column + 4 <= p.n) {
      const float4 four = *reinterpret_cast<const float4*>(row + column);
      x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = column + j < p.n ? row[column + j] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      keys[4 * group + j] = column + j < p.n ? key_of(x[j], column + j) : 0;
    }
  }
}

__device__ void load_keys(const TopKParams& p, const uint64_t* row, int32_t first,
                          uint64_t (&keys)[kLaneKeys]) {
#pragma unroll
  for (int j = 0; j < kLaneKeys; ++j) {
    const int32_t index = first + j * kWarp + static_cast<int32_t>(threadIdx.x % kWarp);
    keys[j] = index < p.n ? row[index] : 0;
  }
}

// The k largest of the warp's keys, in order.
//   list  [k], shared
__device__ void sort_warp(int32_t k, uint64_t (&keys)[kLaneKeys], uint64_t* list) {
  uint64_t mine = keys[0];
#pragma unroll
  for (int j = 1; j < kLaneKeys; ++j) mine = larger(mine, keys[j]);
  for (int32_t i = 0; i < k; ++i) {
    const uint64_t best = warp_largest(mine);
    if (threadIdx.x % kWarp == 0) list[i] = best;
    if (mine != best || i + 1 == k) continue;
    mine = 0;  // keys differ: one lane gives up its largest
#pragma unroll
    for (int j = 0; j < kLaneKeys; ++j) {
      if (keys[j] == best) keys[j] = 0;
      mine = larger(mine, keys[j]);
    }
  }
}

__device__ void store(const TopKParams& p, int64_t row, int32_t i, uint64_t key) {
  if (p.after != nullptr) {
    p.after[(row * gridDim.y + blockIdx.y) * p.k + i] = key;
    return;
  }
  const int32_t column = column_of(key);
  p.values[row * p.values_stride + i] = key != 0 ? p.x[row * p.x_stride + column] : -infinity();
  p.columns[row * p.columns_stride + i] = key != 0 ? column : -1;
}

// One block for kBlockKeys elements of a row: each warp sorts its own, then the first one merges.
template <bool kWide>
__global__ void TopKKernel(TopKParams p) {
  start_early();
  auto* lists = reinterpret_cast<uint64_t*>(shared_memory());  // [kWarps][k]
  const int64_t row = blockIdx.x;
  const int32_t warp = static_cast<int32_t>(threadIdx.x / kWarp);
  const int32_t lane = static_cast<int32_t>(threadIdx.x % kWarp);
  const int32_t first = (static_cast<int32_t>(blockIdx.y) * kWarps + warp) * kWarpKeys;
  uint64_t keys[kLaneKeys];
  if (p.before != nullptr) {
    load_keys(p, p.before + row * p.n, first, keys);
  } else {
    load_elements<kWide>(p, p.x + row * p.x_stride, first, keys);
  }
  sort_warp(p.k, keys, lists + warp * p.k);
  sync_block();
  if (warp > 0) return;
  const uint64_t* list = lists + lane * p.k;
  int32_t taken = 0;
  uint64_t head = lane < kWarps ? list[0] : 0;
  for (int32_t i = 0; i < p.k; ++i) {
    const uint64_t best = warp_largest(head);
    if (lane == 0) store(p, row, i, best);
    if (head == best && best != 0) {
      ++taken;
      head = taken < p.k ? list[taken] : 0;
    }
  }
}

int64_t Parts(int64_t n) { return (n + kBlockKeys - 1) / kBlockKeys; }

}  // namespace

int64_t TopKScratch(int64_t rows, int64_t n, int64_t k) {
  int64_t keys = 0;
  for (int64_t parts = Parts(n); parts > 1; parts = Parts(parts * k)) keys += rows * parts * k;
  return keys;
}

void TopK(const TopKArgs& args, cudaStream_t stream) {
  const int64_t rows = args.x.rows();
  const int64_t k = args.values.cols();
  CHECK_EQ(args.columns.cols(), k);
  CHECK(k > 0 && k <= kMaxTopK) << "k " << k;
  CHECK_EQ(args.values.rows(), rows);
  CHECK_EQ(args.columns.rows(), rows);
  TopKParams params = {.x = args.x.data<float>(),
                       .x_stride = args.x.stride(0),
                       .before = nullptr,
                       .after = args.scratch,
                       .values = args.values.data<float>(),
                       .columns = args.columns.data<int32_t>(),
                       .values_stride = args.values.stride(0),
                       .columns_stride = args.columns.stride(0),
                       .n = static_cast<int32_t>(args.x.cols()),
                       .k = static_cast<int32_t>(k)};
  const auto kernel = RowsAligned(args.x, 16) ? TopKKernel<true> : TopKKernel<false>;
  for (;;) {
    const int64_t parts = std::max<int64_t>(Parts(params.n), 1);
    uint64_t* const found = params.after;
    if (parts == 1) params.after = nullptr;
    Launch("TopK", kernel,
           {.grid = dim3(static_cast<unsigned>(rows), static_cast<unsigned>(parts)),
            .block = dim3(kWarps * kWarp),
            .shared_bytes = static_cast<size_t>(kWarps * k) * sizeof(uint64_t),
            .stream = stream,
            .early = true},
           params);
    if (parts == 1) return;
    params.before = found;
    params.after = found + rows * parts * k;
    params.n = static_cast<int32_t>(parts * k);
  }
}

}  // namespace intermix::cuda
