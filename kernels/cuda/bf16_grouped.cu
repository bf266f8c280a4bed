// The baseline's grouped GEMM for few rows, bound by the bytes of the weights. A block has 32 out
// features of one expert; its warps share K in turns of 32 and add their sums at the end, in order.
//
// Both operands go from memory to fragments of mma.m16n8k16 by 16-byte loads: the instruction sums
// over k in any order, so a lane's 8 consecutive elements stand for k = 2t, 2t + 1, 2t + 8, 2t + 9
// of two instructions, in the weights' rows and in the tokens' alike.
#include "kernels/cuda/bf16_grouped.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kFeatureTiles = 2;  // of 16 out features
constexpr int kTokenTiles = 4;    // of 8 rows
constexpr int kFeatures = 16 * kFeatureTiles;
constexpr int kTokens = 8 * kTokenTiles;
constexpr int kStep = 32;  // in-features of a warp's turn
static_assert(kWarps == kFeatureTiles * kTokenTiles, "a warp adds up one tile");

struct GroupedParams {
  const uint16_t* x;
  const uint16_t* const* weights;
  const int32_t* row_offsets;
  void* y;
  int64_t y_stride;  // elements
  int32_t n;
  int32_t k;
};

__device__ uint4 load8(const uint16_t* row, int32_t k, int32_t num_k) {
  return k < num_k ? ld_stream(row + k) : uint4{0, 0, 0, 0};
}

// One tile of products, of 32 in-features.
//   low, high  of the weights' rows g and g + 8;  x  of the token g
__device__ void multiply(float (&sums)[4], const uint4& low, const uint4& high, const uint4& x) {
  const uint32_t a0[4] = {low.x, high.x, low.y, high.y};
  const uint32_t b0[2] = {x.x, x.y};
  mma_m16n8k16_bf16(sums, a0, b0);
  const uint32_t a1[4] = {low.z, high.z, low.w, high.w};
  const uint32_t b1[2] = {x.z, x.w};
  mma_m16n8k16_bf16(sums, a1, b1);
}

// What this warp's turns give for rows [first, first + 8 * tiles), of which those before `end` are.
__device__ void sum_turns(const GroupedParams& p, const uint16_t* weights, int32_t first,
                          int32_t end, int32_t tiles,
                          float (&sums)[kFeatureTiles][kTokenTiles][4]) {
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
  const int32_t g = lane / 4;
  const uint16_t* w[kFeatureTiles][2];
#pragma unroll
  for (int m = 0; m < kFeatureTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t feature = static_cast<int32_t>(blockIdx.x) * kFeatures + 16 * m + 8 * half + g;
      w[m][half] = weights + int64_t{feature < p.n ? feature : p.n - 1} * p.k;
    }
  }
  const uint16_t* x[kTokenTiles];
#pragma unroll
  for (int j = 0; j < kTokenTiles; ++j) {
    const int32_t row = first + 8 * j + g;
    x[j] = p.x + int64_t{row < end ? row : end - 1} * p.k;
  }
  const auto turn = static_cast<int32_t>(threadIdx.x / kWarp) * kStep;
#pragma unroll 2
  for (int32_t base = turn; base < p.k; base += kWarps * kStep) {
    const int32_t k = base + lane % 4 * 8;
    uint4 a[kFeatureTiles][2];
#pragma unroll
    for (int m = 0; m < kFeatureTiles; ++m) {
      a[m][0] = load8(w[m][0], k, p.k);
      a[m][1] = load8(w[m][1], k, p.k);
    }
#pragma unroll
    for (int j = 0; j < kTokenTiles; ++j) {
      if (j >= tiles) break;
      const uint4 b = k < p.k ? *reinterpret_cast<const uint4*>(x[j] + k) : uint4{0, 0, 0, 0};
#pragma unroll
      for (int m = 0; m < kFeatureTiles; ++m) multiply(sums[m][j], a[m][0], a[m][1], b);
    }
  }
}

template <typename Out>
__device__ void store(const GroupedParams& p, int32_t row, int32_t feature, float value) {
  Out& to = static_cast<Out*>(p.y)[row * p.y_stride + feature];
  if constexpr (sizeof(Out) == sizeof(float)) {
    to = value;
  } else {
    to = to_bf16(value);
  }
}

template <typename Out>
__global__ void Bf16GroupedKernel(GroupedParams p) {
  auto* parts = reinterpret_cast<float4*>(shared_memory());  // [kWarps][tile][kWarp]
  const auto expert = static_cast<int32_t>(blockIdx.y);
  const auto warp = static_cast<int32_t>(threadIdx.x / kWarp);
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
  wait_for_kernels_ahead();
  let_next_kernel_start();
  const int32_t end = p.row_offsets[expert + 1];
  for (int32_t first = p.row_offsets[expert]; first < end; first += kTokens) {
    const int32_t rest = (end - first + 7) / 8;
    const int32_t tiles = rest < kTokenTiles ? rest : kTokenTiles;
    float sums[kFeatureTiles][kTokenTiles][4] = {};
    sum_turns(p, p.weights[expert], first, end, tiles, sums);
#pragma unroll
    for (int m = 0; m < kFeatureTiles; ++m) {
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j) {
        const float(&s)[4] = sums[m][j];
        parts[(warp * kWarps + m * kTokenTiles + j) * kWarp + lane] = {s[0], s[1], s[2], s[3]};
      }
    }
    sync_block();
    float4 total = parts[warp * kWarp + lane];  // of tile `warp`
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      const float4 more = parts[(w * kWarps + warp) * kWarp + lane];
      total.x = add_rn(total.x, more.x);
      total.y = add_rn(total.y, more.y);
      total.z = add_rn(total.z, more.z);
      total.w = add_rn(total.w, more.w);
    }
    const float values[4] = {total.x, total.y, total.z, total.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int32_t feature = static_cast<int32_t>(blockIdx.x) * kFeatures +
                              warp / kTokenTiles * 16 + i / 2 * 8 + lane / 4;
      const int32_t row = first + warp % kTokenTiles * 8 + lane % 4 * 2 + i % 2;
      if (feature < p.n && row < end) store<Out>(p, row, feature, values[i]);
    }
    sync_block();
  }
}

}  // namespace

void Bf16Grouped(const Bf16GroupedArgs& args, cudaStream_t stream) {
  CHECK(args.x.contiguous() && args.x.cols() % 8 == 0) << args.x.ToString();
  CHECK_EQ(args.y.rows(), args.x.rows());
  const GroupedParams params = {.x = reinterpret_cast<const uint16_t*>(args.x.data<BFloat16>()),
                                .weights = args.weights,
                                .row_offsets = args.row_offsets.data<int32_t>(),
                                .y = args.y.raw(),
                                .y_stride = args.y.stride(0),
                                .n = static_cast<int32_t>(args.y.cols()),
                                .k = static_cast<int32_t>(args.x.cols())};
  CHECK(args.y.dtype() == DType::kF32 || args.y.dtype() == DType::kBF16) << args.y.ToString();
  Launch("Bf16Grouped",
         args.y.dtype() == DType::kF32 ? Bf16GroupedKernel<float> : Bf16GroupedKernel<uint16_t>,
         {.grid = dim3(static_cast<unsigned>((params.n + kFeatures - 1) / kFeatures),
                       static_cast<unsigned>(args.row_offsets.rows() - 1)),
          .block = dim3(kWarps * kWarp),
          .shared_bytes = kWarps * kWarps * kWarp * sizeof(float4),
          .stream = stream,
          .early = true},
         params);
}

}  // namespace intermix::cuda
