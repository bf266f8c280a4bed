// SiLU times up; bound by memory.
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/feed_forward.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

struct SiluParams {
  const float* gate_up;
  uint16_t* out;
  int64_t gate_up_stride;  // elements
  int64_t out_stride;
  int64_t rows;
  int64_t units;
};

// kWidth elements per thread: 8, or 1 where rows are not aligned.
template <int kWidth, bool kInTurns>
__global__ void SiluMulKernel(SiluParams p) {
  start_early();
  const int64_t row = grid_row();
  const int64_t unit = grid_unit();
  if (row >= p.rows || unit >= p.units) return;
  const float* gate = p.gate_up + row * p.gate_up_stride + unit * kWidth * (kInTurns ? 2 : 1);
  const float* up = gate + (kInTurns ? kWidth : p.units * kWidth);
  uint16_t* out = p.out + row * p.out_stride + unit * kWidth;
  if constexpr (kWidth == 8) {
    float g[8];
    float u[8];
    load_f32x8(gate, g);
    load_f32x8(up, u);
    float hidden[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float a = !kInTurns ? g[i] : i < 4 ? g[2 * i] : u[2 * i - 8];
      const float b = !kInTurns ? u[i] : i < 4 ? g[2 * i + 1] : u[2 * i - 7];
      hidden[i] = mul_rn(lane_silu(a), b);
    }
    *reinterpret_cast<uint4*>(out) = narrow_bf16(hidden);
  } else {
    *out = to_bf16(mul_rn(lane_silu(*gate), *up));
  }
}

}  // namespace

void SiluMul(const SiluMulArgs& args, cudaStream_t stream) {
  const int64_t cols = args.out.cols();
  CHECK_EQ(args.gate_up.rows(), args.out.rows());
  CHECK_EQ(args.gate_up.cols(), 2 * cols);
  const bool wide = cols % 8 == 0 && RowsAligned(args.gate_up, 16) && RowsAligned(args.out, 16);
  const SiluParams params = {.gate_up = args.gate_up.data<float>(),
                             .out = reinterpret_cast<uint16_t*>(args.out.data<BFloat16>()),
                             .gate_up_stride = args.gate_up.stride(0),
                             .out_stride = args.out.stride(0),
                             .rows = args.out.rows(),
                             .units = wide ? cols / 8 : cols};
  const auto kernel = args.in_turns ? (wide ? SiluMulKernel<8, true> : SiluMulKernel<1, true>)
                                    : (wide ? SiluMulKernel<8, false> : SiluMulKernel<1, false>);
  Launch("SiluMul", kernel, RowGrid(params.rows, params.units, stream), params);
}

}  // namespace intermix::cuda
