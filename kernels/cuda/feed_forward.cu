// SiLU times up, and the weighted sum of what the experts returned. Both are bound by memory.
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/feed_forward.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

struct SiluParams {
  const float* gate;
  const float* up;
  uint16_t* out;
  int64_t gate_up_stride;  // elements
  int64_t out_stride;
  int64_t rows;
  int64_t units;
};

// kWidth elements per thread: 8, or 1 where rows are not aligned.
template <int kWidth>
__global__ void SiluMulKernel(SiluParams p) {
  const int64_t row = grid_row();
  const int64_t unit = grid_unit();
  if (row >= p.rows || unit >= p.units) return;
  const float* gate = p.gate + row * p.gate_up_stride + unit * kWidth;
  const float* up = p.up + row * p.gate_up_stride + unit * kWidth;
  uint16_t* out = p.out + row * p.out_stride + unit * kWidth;
  if constexpr (kWidth == 8) {
    float g[8];
    float u[8];
    load_f32x8(gate, g);
    load_f32x8(up, u);
#pragma unroll
    for (int i = 0; i < 8; ++i) g[i] = mul_rn(lane_silu(g[i]), u[i]);
    *reinterpret_cast<uint4*>(out) = narrow_bf16(g);
  } else {
    *out = to_bf16(mul_rn(lane_silu(*gate), *up));
  }
}

struct CombineParams {
  const uint16_t* rows;
  const int32_t* row_of;  // null: the identity
  const float* weights;
  float* residual;
  int64_t rows_stride;  // elements
  int64_t row_of_stride;
  int64_t weights_stride;
  int64_t residual_stride;
  int64_t tokens;
  int64_t units;
  int32_t top_k;
};

template <int kWidth>
__device__ void load_terms(const uint16_t* from, float (&x)[kWidth]) {
  if constexpr (kWidth == 8) {
    load_row8(from, x);
  } else {
    x[0] = load_row1(from);
  }
}

template <int kWidth>
__global__ void CombineExpertsKernel(CombineParams p) {
  const int64_t token = grid_row();
  const int64_t unit = grid_unit();
  if (token >= p.tokens || unit >= p.units) return;
  float sum[kWidth] = {};
  for (int32_t slot = 0; slot < p.top_k; ++slot) {
    const int64_t from =
        p.row_of == nullptr ? token * p.top_k + slot : p.row_of[token * p.row_of_stride + slot];
    const float weight = p.weights[token * p.weights_stride + slot];
    float x[kWidth];
    load_terms(p.rows + from * p.rows_stride + unit * kWidth, x);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float term = mul_rn(weight, x[i]);
      sum[i] = slot == 0 ? term : add_rn(sum[i], term);
    }
  }
  float* to = p.residual + token * p.residual_stride + unit * kWidth;
  if constexpr (kWidth == 8) {
    float total[8];
    load_f32x8(to, total);
#pragma unroll
    for (int i = 0; i < 8; ++i) total[i] = add_rn(total[i], sum[i]);
    store_f32x8(to, total);
  } else {
    *to = add_rn(*to, sum[0]);
  }
}

}  // namespace

void SiluMul(const SiluMulArgs& args, cudaStream_t stream) {
  const int64_t cols = args.out.cols();
  CHECK_EQ(args.gate_up.rows(), args.out.rows());
  CHECK_EQ(args.gate_up.cols(), 2 * cols);
  const Tensor up = args.gate_up.Cols(cols, 2 * cols);
  const bool wide = cols % 8 == 0 && RowsAligned(args.gate_up, 16) && RowsAligned(args.out, 16);
  const SiluParams params = {.gate = args.gate_up.data<float>(),
                             .up = up.data<float>(),
                             .out = reinterpret_cast<uint16_t*>(args.out.data<BFloat16>()),
                             .gate_up_stride = args.gate_up.stride(0),
                             .out_stride = args.out.stride(0),
                             .rows = args.out.rows(),
                             .units = wide ? cols / 8 : cols};
  Launch("SiluMul", wide ? SiluMulKernel<8> : SiluMulKernel<1>,
         RowGrid(params.rows, params.units, stream), params);
}

void CombineExperts(const CombineExpertsArgs& args, cudaStream_t stream) {
  const int64_t cols = args.residual.cols();
  const bool mapped = !args.row_of.empty();
  CHECK(!mapped || args.row_of.cols() == args.weights.cols()) << args.row_of.ToString();
  CHECK_EQ(args.rows.cols(), cols);
  CHECK_EQ(args.weights.rows(), args.residual.rows());
  const bool wide = cols % 8 == 0 && RowsAligned(args.rows, 16) && RowsAligned(args.residual, 16);
  const CombineParams params = {
      .rows = reinterpret_cast<const uint16_t*>(args.rows.data<BFloat16>()),
      .row_of = mapped ? args.row_of.data<int32_t>() : nullptr,
      .weights = args.weights.data<float>(),
      .residual = args.residual.data<float>(),
      .rows_stride = args.rows.stride(0),
      .row_of_stride = mapped ? args.row_of.stride(0) : 0,
      .weights_stride = args.weights.stride(0),
      .residual_stride = args.residual.stride(0),
      .tokens = args.residual.rows(),
      .units = wide ? cols / 8 : cols,
      .top_k = static_cast<int32_t>(args.weights.cols())};
  Launch("CombineExperts", wide ? CombineExpertsKernel<8> : CombineExpertsKernel<1>,
         RowGrid(params.tokens, params.units, stream), params);
}

}  // namespace intermix::cuda
