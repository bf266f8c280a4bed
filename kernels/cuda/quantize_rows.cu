// Row maxima and int8 rows.
#include "kernels/cuda/block_max.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/quantize_rows.h"
#include "kernels/cuda/row_codes.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

constexpr int kUnit = 16;  // elements of a row that one thread quantises: 16 bytes of codes

// 16 codes; `x` may hold NaN where inverse is 0.
__device__ uint4 code16(const float (&x)[kUnit], float inverse) {
  if (inverse == 0.0f) return {0, 0, 0, 0};
  return {code4(x, inverse), code4(x + 4, inverse), code4(x + 8, inverse), code4(x + 12, inverse)};
}

template <typename T>
__device__ void load_unit(const T* from, float (&x)[kUnit]) {
  float half[8];
  load_row8(from, half);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = half[i];
  load_row8(from + 8, half);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[8 + i] = half[i];
}

template <typename T>
struct AbsMaxParams {
  const T* x;
  float* amax;
  int64_t stride;  // elements
  int64_t cols;
};

// One block per row. kWidth: 8 elements at a time, or 1 where rows are not aligned.
template <typename T, int kWidth>
__global__ void RowAbsMaxKernel(AbsMaxParams<T> p) {
  start_early();
  const T* row = p.x + blockIdx.x * p.stride;
  int32_t largest = 0;
  for (int64_t k = threadIdx.x * kWidth; k < p.cols; k += blockDim.x * kWidth) {
    if constexpr (kWidth == 8) {
      float x[8];
      load_row8(row + k, x);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int32_t bits = magnitude_bits(x[i]);
        largest = bits > largest ? bits : largest;
      }
    } else {
      const int32_t bits = magnitude_bits(load_row1(row + k));
      largest = bits > largest ? bits : largest;
    }
  }
  largest = block_max(largest, reinterpret_cast<int32_t*>(shared_memory()));
  if (threadIdx.x == 0) {
    p.amax[blockIdx.x] = amax_of_bits(largest);
  }
}

template <typename T>
void RowAbsMaxAs(const RowAbsMaxArgs& args, cudaStream_t stream) {
  const bool wide = args.x.cols() % 8 == 0 && RowsAligned(args.x, 16);
  const int64_t units = wide ? args.x.cols() / 8 : args.x.cols();
  Launch("RowAbsMax", wide ? RowAbsMaxKernel<T, 8> : RowAbsMaxKernel<T, 1>,
         {.grid = dim3(static_cast<unsigned>(args.x.rows())),
          .block = dim3(RowBlock(units, 256)),
          .shared_bytes = kWarp * sizeof(int32_t),
          .stream = stream,
          .early = true},
         AbsMaxParams<T>{.x = static_cast<const T*>(args.x.raw()),
                         .amax = args.amax.data<float>(),
                         .stride = args.x.stride(0),
                         .cols = args.x.cols()});
}

template <typename T>
struct QuantizeParams {
  const T* x;
  const float* amax;
  int8_t* codes;
  float* widened;  // instead of codes, where the rows stay float32
  float* scales;
  int64_t x_stride;    // elements
  int64_t out_stride;  // of codes or widened
  int64_t rows;
  int64_t units;
};

// kWidth: kUnit elements per thread, or 1 where rows are not aligned.
template <typename T, int kWidth>
__global__ void QuantizeRowsKernel(QuantizeParams<T> p) {
  start_early();
  const int64_t row = grid_row();
  const int64_t unit = grid_unit();
  if (row >= p.rows || unit >= p.units) return;
  const RowScale scale = row_scale(p.amax[row]);
  if (unit == 0) p.scales[row] = scale.scale;
  const T* from = p.x + row * p.x_stride + unit * kWidth;
  int8_t* to = p.codes + row * p.out_stride + unit * kWidth;
  if constexpr (kWidth == kUnit) {
    float x[kUnit];
    load_unit(from, x);
    *reinterpret_cast<uint4*>(to) = code16(x, scale.inverse);
  } else {
    *to = scale.inverse == 0.0f ? int8_t{0}
                                : static_cast<int8_t>(code(load_row1(from), scale.inverse));
  }
}

// One block per row, whose first kHeldUnits units a thread stay in registers between the maximum
// and the codes; longer rows are read again.
constexpr int kHeldUnits = 2;
constexpr int kMostQuantizeThreads = 512;

template <typename T, int kWidth>
__global__ void QuantizeWholeRowsKernel(QuantizeParams<T> p) {
  start_early();
  const T* from = p.x + blockIdx.x * p.x_stride;
  int8_t* to = p.codes + blockIdx.x * p.out_stride;
  float held[kHeldUnits][kWidth];
  float x[kWidth];
  int32_t largest = 0;
  const auto load = [&](int64_t unit, float(&values)[kWidth]) {
    if constexpr (kWidth == kUnit) {
      load_unit(from + unit * kWidth, values);
    } else {
      values[0] = load_row1(from + unit);
    }
  };
  const auto look = [&](const float(&values)[kWidth]) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const int32_t bits = magnitude_bits(values[i]);
      largest = bits > largest ? bits : largest;
    }
  };
  const int64_t step = blockDim.x;
#pragma unroll
  for (int h = 0; h < kHeldUnits; ++h) {
    const int64_t unit = threadIdx.x + h * step;
    if (unit < p.units) load(unit, held[h]);
  }
#pragma unroll
  for (int h = 0; h < kHeldUnits; ++h) {
    if (threadIdx.x + h * step < p.units) look(held[h]);
  }
  for (int64_t unit = threadIdx.x + kHeldUnits * step; unit < p.units; unit += step) {
    load(unit, x);
    look(x);
  }
  largest = block_max(largest, reinterpret_cast<int32_t*>(shared_memory()));
  const RowScale scale = row_scale(amax_of_bits(largest));
  if (threadIdx.x == 0) p.scales[blockIdx.x] = scale.scale;
  const auto store = [&](int64_t unit, const float(&values)[kWidth]) {
    if constexpr (kWidth == kUnit) {
      *reinterpret_cast<uint4*>(to + unit * kWidth) = code16(values, scale.inverse);
    } else {
      to[unit] =
          scale.inverse == 0.0f ? int8_t{0} : static_cast<int8_t>(code(values[0], scale.inverse));
    }
  };
#pragma unroll
  for (int h = 0; h < kHeldUnits; ++h) {
    const int64_t unit = threadIdx.x + h * step;
    if (unit < p.units) store(unit, held[h]);
  }
  for (int64_t unit = threadIdx.x + kHeldUnits * step; unit < p.units; unit += step) {
    load(unit, x);
    store(unit, x);
  }
}

template <typename T, int kWidth>
__global__ void WidenRowsKernel(QuantizeParams<T> p) {
  start_early();
  const int64_t row = grid_row();
  const int64_t unit = grid_unit();
  if (row >= p.rows || unit >= p.units) return;
  const T* from = p.x + row * p.x_stride + unit * kWidth;
  float* to = p.widened + row * p.out_stride + unit * kWidth;
  if constexpr (kWidth == 8) {
    float x[8];
    load_row8(from, x);
    store_f32x8(to, x);
  } else {
    *to = load_row1(from);
  }
}

template <typename T>
void QuantizeRowsAs(const QuantizeRowsArgs& args, cudaStream_t stream) {
  const bool quantized = args.out.quantized();
  const bool given = quantized && !args.amax.empty();
  const int64_t width = quantized ? kUnit : 8;
  const bool wide =
      args.x.cols() % width == 0 && RowsAligned(args.x, 16) && RowsAligned(args.out.values, 16);
  const QuantizeParams<T> params = {.x = static_cast<const T*>(args.x.raw()),
                                    .amax = given ? args.amax.data<float>() : nullptr,
                                    .codes = quantized ? args.out.values.data<int8_t>() : nullptr,
                                    .widened = quantized ? nullptr : args.out.values.data<float>(),
                                    .scales = quantized ? args.out.scales.data<float>() : nullptr,
                                    .x_stride = args.x.stride(0),
                                    .out_stride = args.out.values.stride(0),
                                    .rows = args.x.rows(),
                                    .units = wide ? args.x.cols() / width : args.x.cols()};
  if (quantized && !given) {
    Launch("QuantizeWholeRows",
           wide ? QuantizeWholeRowsKernel<T, kUnit> : QuantizeWholeRowsKernel<T, 1>,
           {.grid = dim3(static_cast<unsigned>(params.rows)),
            .block = dim3(RowBlock(params.units, kMostQuantizeThreads)),
            .shared_bytes = kWarp * sizeof(int32_t),
            .stream = stream,
            .early = true},
           params);
    return;
  }
  const LaunchShape shape = RowGrid(params.rows, params.units, stream);
  if (quantized) {
    Launch("QuantizeRows", wide ? QuantizeRowsKernel<T, kUnit> : QuantizeRowsKernel<T, 1>, shape,
           params);
  } else {
    Launch("WidenRows", wide ? WidenRowsKernel<T, 8> : WidenRowsKernel<T, 1>, shape, params);
  }
}

}  // namespace

void RowAbsMax(const RowAbsMaxArgs& args, cudaStream_t stream) {
  CHECK_EQ(args.amax.rows(), args.x.rows());
  if (args.x.dtype() == DType::kBF16) {
    RowAbsMaxAs<uint16_t>(args, stream);
  } else {
    CHECK(args.x.dtype() == DType::kF32) << args.x.ToString();
    RowAbsMaxAs<float>(args, stream);
  }
}

void QuantizeRows(const QuantizeRowsArgs& args, cudaStream_t stream) {
  CHECK_EQ(args.out.values.rows(), args.x.rows());
  CHECK_EQ(args.out.values.cols(), args.x.cols());
  if (args.x.dtype() == DType::kBF16) {
    QuantizeRowsAs<uint16_t>(args, stream);
  } else {
    CHECK(args.x.dtype() == DType::kF32) << args.x.ToString();
    QuantizeRowsAs<float>(args, stream);
  }
}

}  // namespace intermix::cuda
