// SiLU times up; bound by memory.
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

}  // namespace intermix::cuda
