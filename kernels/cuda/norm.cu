// The root-mean-square norm with its own quantisation, and the sum in front of it. One block per
// row.
#include <algorithm>

#include "kernels/cuda/block_max.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/row_codes.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

// Elements that a thread takes at once: 16 bytes of float32, so that the pieces of a warp fill
// whole sectors. (With 32 bytes to a thread each store wrote half of every sector it touched, and
// twice the sectors went to the second-level cache.)
constexpr int kPiece = 4;
constexpr int64_t kMaxThreads = 1024;

enum class Sum { kNone, kRows, kExperts };

struct NormParams {
  const uint16_t* delta;
  const int32_t* row_of;  // null: the identity
  const float* weights;
  float* residual;
  const float* gain;
  float* normed;
  int8_t* codes;   // null where the rows stay float32
  float* widened;  // then a second copy of normed, or null
  float* scales;
  int64_t delta_stride;  // elements
  int64_t row_of_stride;
  int64_t weights_stride;
  int64_t residual_stride;
  int64_t normed_stride;
  int64_t out_stride;  // of codes or widened
  float eps;
  int32_t cols;
  int32_t top_k;
  bool slots_are_old;  // row_of and weights
};

// What the block's shared memory begins with: warps' maxima and the row's factor.
struct NormMemory {
  int32_t maxima[kWarp];
  float inverse;
  float unused[3];  // what follows begins at a multiple of 16 bytes
};

// Elements k .. k + kWidth of a row.
template <int kWidth>
__device__ void load_piece(const float* from, float* x) {
  if constexpr (kWidth == kPiece) {
    const float4 piece = *reinterpret_cast<const float4*>(from);
    x[0] = piece.x, x[1] = piece.y, x[2] = piece.z, x[3] = piece.w;
  } else {
    *x = load_row1(from);
  }
}

template <int kWidth>
__device__ void load_piece(const uint16_t* from, float* x) {
  if constexpr (kWidth == kPiece) {
    const uint2 piece = *reinterpret_cast<const uint2*>(from);
    x[0] = from_bf16(piece.x), x[1] = float_of_bits(piece.x & 0xFFFF0000u);
    x[2] = from_bf16(piece.y), x[3] = float_of_bits(piece.y & 0xFFFF0000u);
  } else {
    *x = load_row1(from);
  }
}

template <int kWidth>
__device__ void store_piece(float* to, const float* x) {
  if constexpr (kWidth == kPiece) {
    *reinterpret_cast<float4*>(to) = {x[0], x[1], x[2], x[3]};
  } else {
    *to = *x;
  }
}

template <int kWidth>
__device__ void store_codes(int8_t* to, const float* x, float inverse) {
  if constexpr (kWidth == kPiece) {
    *reinterpret_cast<uint32_t*>(to) = inverse == 0.0f ? 0 : code4(x, inverse);
  } else {
    *to = inverse == 0.0f ? int8_t{0} : static_cast<int8_t>(code(*x, inverse));
  }
}

// How a block has its row.
enum class Form {
  kFewRows,   // soonest: many threads, which have the gain before the row is there
  kManyRows,  // fewer threads and registers: the more blocks there are, the more is in flight
  kNarrow     // element by element
};

// Elements of the row that a thread has in registers.
template <Form kForm>
inline constexpr int kHeldIn = kForm == Form::kManyRows ? 16 : 8;
static_assert(kMaxThreads * kHeldIn<Form::kManyRows> == kMaxNormWidth);
// Registers that a thread may have: five blocks with rows of 4096 in a multiprocessor, or one of
// kMaxThreads.
template <Form kForm>
inline constexpr int kMaxRegisters = kForm == Form::kManyRows ? 48 : 64;

// Calls visit(k, x) for each piece of the row that this thread has: x[0] .. x[kWidth - 1] are its
// elements k .. k + kWidth - 1. Wide pieces are in the thread's registers, `held`; elements one by
// one stay in shared memory, in `row`. A thread's pieces lie at fixed distances, so that it needs
// one address for all.
template <int kWidth, int kHeld, typename Visit>
__device__ void for_each_piece(int32_t cols, float (&held)[kHeld], float* row, const Visit& visit) {
  if constexpr (kWidth == kPiece) {
    const auto warp = static_cast<int32_t>(threadIdx.x / kWarp);
    const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
    const int32_t first = warp * kWarp * kHeld + lane * kPiece;
#pragma unroll
    for (int i = 0; i < kHeld; i += kPiece) {
      if (first + i * kWarp < cols) visit(first + i * kWarp, held + i);
    }
  } else {
    for (auto k = static_cast<int32_t>(threadIdx.x); k < cols;
         k += static_cast<int32_t>(blockDim.x)) {
      visit(k, row + k);
    }
  }
}

// LaneDot(row, row), on every lane of the warp that calls it. The next values are read while the
// chain of fmas, which would wait for each by itself, takes these.
__device__ float square_sum(const float* row, int32_t cols) {
  constexpr int32_t kAhead = 16;
  constexpr int32_t kStep = 16 * kAhead;
  const int32_t full = cols / kStep * kStep;
  const auto lane = static_cast<int32_t>(threadIdx.x % 16);
  float sum = 0.0f;
  float next[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) next[i] = full > 0 ? row[lane + 16 * i] : 0.0f;
#pragma unroll 2
  for (int32_t k = 0; k < full; k += kStep) {
    float x[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) x[i] = next[i];
    const int32_t after = k + kStep < full ? k + kStep : 0;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) next[i] = row[after + lane + 16 * i];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) sum = fma_rn(x[i], x[i], sum);
  }
  for (int32_t k = full + lane; k < cols; k += 16) sum = fma_rn(row[k], row[k], sum);
  return sum_lanes(sum);
}

// The experts' rows of the block's token, and their weights.
//   slots  [2][top_k] shared
__device__ void load_slots(const NormParams& p, int32_t* slots) {
  const int64_t token = blockIdx.x;
  auto* weights = reinterpret_cast<float*>(slots + p.top_k);
  for (auto slot = static_cast<int32_t>(threadIdx.x); slot < p.top_k;
       slot += static_cast<int32_t>(blockDim.x)) {
    slots[slot] = p.row_of == nullptr ? static_cast<int32_t>(token) * p.top_k + slot
                                      : p.row_of[token * p.row_of_stride + slot];
    weights[slot] = p.weights[token * p.weights_stride + slot];
  }
}

// x += the weighted elements k .. k + kWidth of the experts' rows, slots ascending.
template <int kWidth>
__device__ void add_experts(const NormParams& p, const int32_t* slots, int32_t k, float* x) {
  const auto* weights = reinterpret_cast<const float*>(slots + p.top_k);
  float sum[kWidth] = {};
#pragma unroll 2
  for (int32_t slot = 0; slot < p.top_k; ++slot) {
    float y[kWidth];
    load_piece<kWidth>(p.delta + slots[slot] * p.delta_stride + k, y);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float term = mul_rn(weights[slot], y[i]);
      sum[i] = slot == 0 ? term : add_rn(sum[i], term);
    }
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) x[i] = add_rn(x[i], sum[i]);
}

template <int kWidth>
__device__ void add_row(const uint16_t* delta, float* x) {
  float y[kWidth];
  load_piece<kWidth>(delta, y);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) x[i] = add_rn(x[i], y[i]);
}

template <Sum kSum, Form kForm>
__global__ void __maxnreg__(kMaxRegisters<kForm>) RmsNormKernel(NormParams p) {
  constexpr int kWidth = kForm == Form::kNarrow ? 1 : kPiece;
  auto& shared = *reinterpret_cast<NormMemory*>(shared_memory());
  auto* row = reinterpret_cast<float*>(&shared + 1);  // [cols, padded to 4]
  auto* slots = reinterpret_cast<int32_t*>(row + (p.cols + 3) / 4 * 4);
  float* residual = p.residual + blockIdx.x * p.residual_stride;
  float held[kHeldIn<kForm>];
  float gain[kHeldIn<kForm>];
  const auto for_each = [&](const auto& visit) {
    for_each_piece<kWidth>(p.cols, held, row, visit);
  };
  let_next_kernel_start();
  if constexpr (kForm == Form::kFewRows) {
    for_each([&](int32_t k, float* x) { load_piece<kWidth>(p.gain + k, gain + (x - held)); });
  }
  if (kSum == Sum::kExperts && p.slots_are_old) {
    load_slots(p, slots);
    sync_block();
  }
  wait_for_kernels_ahead();
  if (kSum == Sum::kExperts && !p.slots_are_old) load_slots(p, slots);
  for_each([&](int32_t k, float* x) { load_piece<kWidth>(residual + k, x); });
  if constexpr (kSum == Sum::kRows) {
    const uint16_t* delta = p.delta + blockIdx.x * p.delta_stride;
    for_each([&](int32_t k, float* x) { add_row<kWidth>(delta + k, x); });
  } else if constexpr (kSum == Sum::kExperts) {
    if (!p.slots_are_old) sync_block();  // they are here
    for_each([&](int32_t k, float* x) { add_experts<kWidth>(p, slots, k, x); });
  }
  for_each([&](int32_t k, float* x) {
    if constexpr (kSum != Sum::kNone) store_piece<kWidth>(residual + k, x);
    if constexpr (kWidth == kPiece) store_piece<kWidth>(row + k, x);
  });
  sync_block();
  if (threadIdx.x < kWarp) {
    const float mean = div_rn(square_sum(row, p.cols), to_f32(p.cols));
    if (threadIdx.x == 0) shared.inverse = div_rn(1.0f, sqrt_rn(add_rn(mean, p.eps)));
  }
  sync_block();
  const float inverse = shared.inverse;
  int32_t largest = 0;
  float* normed = p.normed + blockIdx.x * p.normed_stride;
  float* widened = p.widened == nullptr ? nullptr : p.widened + blockIdx.x * p.out_stride;
  for_each([&](int32_t k, float* x) {
    float g[kWidth];
    if constexpr (kForm == Form::kFewRows) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) g[i] = gain[x - held + i];
    } else {
      load_piece<kWidth>(p.gain + k, g);
    }
    // From shared memory, so that no register holds it during the sum.
    if constexpr (kWidth == kPiece) load_piece<kWidth>(row + k, x);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      x[i] = mul_rn(mul_rn(x[i], inverse), g[i]);
      const int32_t bits = magnitude_bits(x[i]);
      largest = bits > largest ? bits : largest;
    }
    store_piece<kWidth>(normed + k, x);
    if (widened != nullptr) store_piece<kWidth>(widened + k, x);
  });
  if (p.codes == nullptr) return;
  const RowScale scale = row_scale(amax_of_bits(block_max(largest, shared.maxima)));
  if (threadIdx.x == 0) p.scales[blockIdx.x] = scale.scale;
  int8_t* codes = p.codes + blockIdx.x * p.out_stride;
  for_each([&](int32_t k, float* x) { store_codes<kWidth>(codes + k, x, scale.inverse); });
}

template <Form kForm>
auto KernelOf(Sum sum) {
  switch (sum) {
    case Sum::kRows:
      return RmsNormKernel<Sum::kRows, kForm>;
    case Sum::kExperts:
      return RmsNormKernel<Sum::kExperts, kForm>;
    default:
      return RmsNormKernel<Sum::kNone, kForm>;
  }
}

void CheckShapes(const RmsNormArgs& args, Sum sum) {
  const Delta& delta = args.delta;
  const int64_t tokens = args.residual.rows();
  const int64_t cols = args.residual.cols();
  CHECK_LE(cols, kMaxNormWidth);
  CHECK_EQ(args.norm.weight.cols(), cols);
  CHECK_EQ(args.out.values.cols(), cols);
  CHECK_EQ(args.out.values.rows(), tokens);
  CHECK_EQ(args.out.activations.values.cols(), cols);
  if (sum == Sum::kNone) return;
  CHECK_EQ(delta.rows.cols(), cols);
  CHECK_EQ(sum == Sum::kRows ? delta.rows.rows() : delta.weights.rows(), tokens);
  CHECK(delta.row_of.empty() || delta.row_of.cols() == delta.weights.cols())
      << delta.row_of.ToString();
}

}  // namespace

void RmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  const auto& [delta, residual, norm, out, slots_are_old] = args;
  const Sum sum = delta.rows.empty()      ? Sum::kNone
                  : delta.weights.empty() ? Sum::kRows
                                          : Sum::kExperts;
  CheckShapes(args, sum);
  const int64_t tokens = residual.rows();
  const int64_t cols = residual.cols();
  const Activations& activations = out.activations;
  const bool quantized = activations.quantized();
  const bool copy = !quantized && activations.values.raw() != out.values.raw();
  const bool wide = cols % kPiece == 0 && RowsAligned(residual, 16) &&
                    RowsAligned(norm.weight, 16) && RowsAligned(out.values, 16) &&
                    RowsAligned(delta.rows, 8) &&
                    RowsAligned(activations.values, quantized ? 4 : 16);
  constexpr int64_t kFewRows = 256;
  const bool few = tokens <= kFewRows && cols <= kMaxThreads * kHeldIn<Form::kFewRows>;
  const auto kernel = !wide ? KernelOf<Form::kNarrow>(sum)
                      : few ? KernelOf<Form::kFewRows>(sum)
                            : KernelOf<Form::kManyRows>(sum);
  const int64_t held = few || !wide ? kHeldIn<Form::kFewRows> : kHeldIn<Form::kManyRows>;
  const auto top_k = static_cast<int32_t>(sum == Sum::kExperts ? delta.weights.cols() : 0);
  const size_t floats = static_cast<size_t>((cols + 3) / 4 * 4 + 2 * top_k);
  Launch("RmsNorm", kernel,
         {.grid = dim3(static_cast<unsigned>(tokens)),
          .block = dim3(RowBlock((cols + held - 1) / held, kMaxThreads)),
          .shared_bytes = sizeof(NormMemory) + floats * sizeof(float),
          .stream = stream,
          .early = true},
         NormParams{.delta = sum == Sum::kNone
                                 ? nullptr
                                 : reinterpret_cast<const uint16_t*>(delta.rows.data<BFloat16>()),
                    .row_of = delta.row_of.empty() ? nullptr : delta.row_of.data<int32_t>(),
                    .weights = top_k > 0 ? delta.weights.data<float>() : nullptr,
                    .residual = residual.data<float>(),
                    .gain = norm.weight.data<float>(),
                    .normed = out.values.data<float>(),
                    .codes = quantized ? activations.values.data<int8_t>() : nullptr,
                    .widened = copy ? activations.values.data<float>() : nullptr,
                    .scales = quantized ? activations.scales.data<float>() : nullptr,
                    .delta_stride = sum == Sum::kNone ? 0 : delta.rows.stride(0),
                    .row_of_stride = delta.row_of.empty() ? 0 : delta.row_of.stride(0),
                    .weights_stride = top_k > 0 ? delta.weights.stride(0) : 0,
                    .residual_stride = residual.stride(0),
                    .normed_stride = out.values.stride(0),
                    .out_stride = activations.values.stride(0),
                    .eps = norm.eps,
                    .cols = static_cast<int32_t>(cols),
                    .top_k = top_k,
                    .slots_are_old = slots_are_old});
}

}  // namespace intermix::cuda
