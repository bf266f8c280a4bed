#include "kernels/cuda/bf16_rows.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

struct RoundParams {
  const float* x;
  uint16_t* out;
  int64_t x_stride;  // elements
  int64_t out_stride;
  int64_t rows;
  int64_t units;
};

template <int kWidth>
__global__ void RoundToBf16Kernel(RoundParams p) {
  start_early();
  const int64_t row = grid_row();
  const int64_t unit = grid_unit();
  if (row >= p.rows || unit >= p.units) return;
  const float* from = p.x + row * p.x_stride + unit * kWidth;
  uint16_t* to = p.out + row * p.out_stride + unit * kWidth;
  if constexpr (kWidth == 8) {
    float x[8];
    load_f32x8(from, x);
    *reinterpret_cast<uint4*>(to) = narrow_bf16(x);
  } else {
    *to = to_bf16(*from);
  }
}

}  // namespace

void RoundToBf16(const RoundToBf16Args& args, cudaStream_t stream) {
  CHECK_EQ(args.x.rows(), args.out.rows());
  CHECK_EQ(args.x.cols(), args.out.cols());
  const bool wide = args.x.cols() % 8 == 0 && RowsAligned(args.x, 16) && RowsAligned(args.out, 16);
  const RoundParams params = {.x = args.x.data<float>(),
                              .out = reinterpret_cast<uint16_t*>(args.out.data<BFloat16>()),
                              .x_stride = args.x.stride(0),
                              .out_stride = args.out.stride(0),
                              .rows = args.x.rows(),
                              .units = wide ? args.x.cols() / 8 : args.x.cols()};
  Launch("RoundToBf16", wide ? RoundToBf16Kernel<8> : RoundToBf16Kernel<1>,
         RowGrid(params.rows, params.units, stream), params);
}

}  // namespace intermix::cuda
