// Row maxima, int8 rows, and the root-mean-square norm with its own quantisation.
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/quantize_rows.h"
#include "kernels/cuda/row_codes.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

constexpr int kUnit = 16;  // elements of a row that one thread quantises: 16 bytes of codes

// The largest value of the block, on every thread. `scratch` holds one int32 for each warp.
__device__ int32_t block_max(int32_t value, int32_t* scratch) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const int32_t other = shfl_xor_s32(value, mask);
    value = other > value ? other : value;
  }
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  sync_block();
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) {
    value = scratch[w] > value ? scratch[w] : value;
  }
  return value;
}

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
          .stream = stream},
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
            .stream = stream},
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

struct NormParams {
  const float* x;
  const float* weight;
  float eps;
  float* normed;
  int8_t* codes;   // null where the rows stay float32
  float* widened;  // then a second copy of normed, or null
  float* scales;
  int64_t x_stride;  // elements
  int64_t normed_stride;
  int64_t out_stride;  // of codes or widened
  int64_t cols;
};

// LaneDot(row, row), on every lane of the warp that calls it. Values are read ahead of the chain of
// fmas, which would wait for each by itself.
__device__ float square_sum(const float* row, int64_t cols) {
  constexpr int kAhead = 16;
  float sum = 0.0f;
  int64_t k = threadIdx.x % 16;
  for (; k + 16 * (kAhead - 1) < cols; k += 16 * kAhead) {
    float x[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) x[i] = row[k + 16 * i];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) sum = fma_rn(x[i], x[i], sum);
  }
  for (; k < cols; k += 16) sum = fma_rn(row[k], row[k], sum);
  return sum_lanes(sum);
}

// The row from global to shared memory; complete after the next barrier.
template <bool kWide>
__device__ void load_norm_row(const float* from, float* row, int64_t cols) {
  constexpr int kWidth = kWide ? 4 : 1;
  for (int64_t k = threadIdx.x * kWidth; k < cols; k += blockDim.x * kWidth) {
    if constexpr (kWide) {
      cp_async_16(row + k, from + k);
    } else {
      row[k] = from[k];
    }
  }
  cp_async_commit();
  cp_async_wait<0>();
}

// normed = (row * inverse) * weight, in shared memory and out; returns the largest magnitude of
// what this thread wrote.
template <bool kWide>
__device__ int32_t normalize_row(const NormParams& p, float* row, float inverse) {
  constexpr int kWidth = kWide ? 4 : 1;
  float* normed = p.normed + blockIdx.x * p.normed_stride;
  float* widened = p.widened == nullptr ? nullptr : p.widened + blockIdx.x * p.out_stride;
  int32_t largest = 0;
  for (int64_t k = threadIdx.x * kWidth; k < p.cols; k += blockDim.x * kWidth) {
    float y[kWidth];
    float w[kWidth];
    if constexpr (kWide) {
      const float4 x4 = *reinterpret_cast<const float4*>(row + k);
      const float4 w4 = *reinterpret_cast<const float4*>(p.weight + k);
      y[0] = x4.x, y[1] = x4.y, y[2] = x4.z, y[3] = x4.w;
      w[0] = w4.x, w[1] = w4.y, w[2] = w4.z, w[3] = w4.w;
    } else {
      y[0] = row[k];
      w[0] = p.weight[k];
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      y[i] = mul_rn(mul_rn(y[i], inverse), w[i]);
      const int32_t bits = magnitude_bits(y[i]);
      largest = bits > largest ? bits : largest;
    }
    if constexpr (kWide) {
      const float4 result = {y[0], y[1], y[2], y[3]};
      *reinterpret_cast<float4*>(row + k) = result;
      *reinterpret_cast<float4*>(normed + k) = result;
      if (widened != nullptr) *reinterpret_cast<float4*>(widened + k) = result;
    } else {
      row[k] = y[0];
      normed[k] = y[0];
      if (widened != nullptr) widened[k] = y[0];
    }
  }
  return largest;
}

template <bool kWide>
__device__ void quantize_norm_row(const NormParams& p, const float* row, float inverse) {
  constexpr int kWidth = kWide ? kUnit : 1;
  int8_t* codes = p.codes + blockIdx.x * p.out_stride;
  for (int64_t k = threadIdx.x * kWidth; k < p.cols; k += blockDim.x * kWidth) {
    if constexpr (kWide) {
      float x[kUnit];
      load_unit(row + k, x);
      *reinterpret_cast<uint4*>(codes + k) = code16(x, inverse);
    } else {
      codes[k] = inverse == 0.0f ? int8_t{0} : static_cast<int8_t>(code(row[k], inverse));
    }
  }
}

// One block per row, which stays in shared memory. The 16-lane sum is a chain of cols / 16 fmas on
// the first warp: at most a microsecond, hidden behind other rows' memory traffic.
template <bool kWide>
__global__ void RmsNormKernel(NormParams p) {
  auto* scratch = reinterpret_cast<int32_t*>(shared_memory());  // [warps], then 1 float
  auto* inverse_of_row = reinterpret_cast<float*>(scratch) + kWarp;
  float* row = inverse_of_row + kWarp;
  load_norm_row<kWide>(p.x + blockIdx.x * p.x_stride, row, p.cols);
  sync_block();
  if (threadIdx.x < kWarp) {
    const float mean = div_rn(square_sum(row, p.cols), to_f32(static_cast<int32_t>(p.cols)));
    if (threadIdx.x == 0) *inverse_of_row = div_rn(1.0f, sqrt_rn(add_rn(mean, p.eps)));
  }
  sync_block();
  const int32_t largest = normalize_row<kWide>(p, row, *inverse_of_row);
  if (p.codes == nullptr) return;
  const int32_t amax = block_max(largest, scratch);  // its barrier also publishes the row
  const RowScale scale = row_scale(amax_of_bits(amax));
  if (threadIdx.x == 0) p.scales[blockIdx.x] = scale.scale;
  quantize_norm_row<kWide>(p, row, scale.inverse);
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

void RmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  const int64_t cols = args.x.cols();
  CHECK_EQ(args.weight.cols(), cols);
  CHECK_EQ(args.normed.cols(), cols);
  CHECK_EQ(args.normed.rows(), args.x.rows());
  CHECK_EQ(args.out.values.cols(), cols);
  CHECK_LE(cols, kMaxNormWidth);
  const bool quantized = args.out.quantized();
  const bool wide = cols % kUnit == 0 && RowsAligned(args.x, 16) && RowsAligned(args.weight, 16) &&
                    RowsAligned(args.normed, 16) && RowsAligned(args.out.values, 16);
  const bool copy = !quantized && args.out.values.raw() != args.normed.raw();
  Launch("RmsNorm", wide ? RmsNormKernel<true> : RmsNormKernel<false>,
         {.grid = dim3(static_cast<unsigned>(args.x.rows())),
          .block = dim3(RowBlock(wide ? cols / 4 : cols, 512)),
          .shared_bytes = (2 * kWarp + static_cast<size_t>(cols)) * sizeof(float),
          .stream = stream},
         NormParams{.x = args.x.data<float>(),
                    .weight = args.weight.data<float>(),
                    .eps = args.eps,
                    .normed = args.normed.data<float>(),
                    .codes = quantized ? args.out.values.data<int8_t>() : nullptr,
                    .widened = copy ? args.out.values.data<float>() : nullptr,
                    .scales = quantized ? args.out.scales.data<float>() : nullptr,
                    .x_stride = args.x.stride(0),
                    .normed_stride = args.normed.stride(0),
                    .out_stride = args.out.values.stride(0),
                    .cols = cols});
}

}  // namespace intermix::cuda
