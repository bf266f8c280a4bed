// Rotary embedding of q and k in place, and k and v into the paged cache: rounded to bfloat16, or
// quantised by head.
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/row_codes.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

// K or V of a layer; or their scales, where a row is one element.
template <typename T>
struct CacheView {
  T* data;
  int64_t block_stride;  // elements
  int64_t head_stride;
  int64_t position_stride;
};

struct CodesView {
  CacheView<int8_t> codes;
  CacheView<float> scales;
};

struct RopeParams {
  float* q;
  float* k;
  const float* v;
  const float* rope;
  const int32_t* positions;
  const int32_t* slots;
  int64_t q_stride;  // elements
  int64_t k_stride;
  int64_t v_stride;
  int64_t rope_stride;
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t block_size;
};

// kWidth consecutive elements: 4 with 16-byte accesses, or 1.
template <int kWidth>
__device__ void load(const float* from, float (&x)[kWidth]) {
  if constexpr (kWidth == 4) {
    const float4 v = *reinterpret_cast<const float4*>(from);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
  } else {
    x[0] = *from;
  }
}

template <int kWidth>
__device__ void store(float* to, const float (&x)[kWidth]) {
  if constexpr (kWidth == 4) {
    *reinterpret_cast<float4*>(to) = {x[0], x[1], x[2], x[3]};
  } else {
    *to = x[0];
  }
}

template <int kWidth>
__device__ void store_bf16(uint16_t* to, const float (&x)[kWidth]) {
  if constexpr (kWidth == 4) {
    *reinterpret_cast<uint2*>(to) = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])};
  } else {
    *to = to_bf16(x[0]);
  }
}

// Where the cache holds a token's row.
struct Slot {
  int64_t block;
  int64_t offset;
};
__device__ Slot slot_of(const RopeParams& p, int64_t token) {
  return {p.slots[token] / p.block_size, p.slots[token] % p.block_size};
}
template <typename T>
__device__ T* cache_row(const CacheView<T>& cache, const Slot& slot, int64_t head) {
  return cache.data + slot.block * cache.block_stride + head * cache.head_stride +
         slot.offset * cache.position_stride;
}

// Rotates elements i and i + half of one head, in place and in low and high; kWidth of each.
template <int kWidth>
__device__ void rotate(float* head, const float* rope, int32_t i, int32_t half,
                       float (&low)[kWidth], float (&high)[kWidth]) {
  float c[kWidth];
  float s[kWidth];
  load(head + i, low);
  load(head + half + i, high);
  load(rope + i, c);
  load(rope + half + i, s);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const float x = low[j];
    low[j] = fma_rn(x, c[j], -mul_rn(high[j], s[j]));
    high[j] = fma_rn(high[j], c[j], mul_rn(x, s[j]));
  }
  store(head + i, low);
  store(head + half + i, high);
}

// The blocks of a token (blockIdx.x) are blockIdx.y; a thread takes kWidth pairs of a head of q or
// k, or 2 * kWidth elements of v. Where the token lies is no kernel's to say: it is read before the
// wait.
template <int kWidth>
__global__ void RopeAndStoreKvKernel(RopeParams p, CacheView<uint16_t> k_cache,
                                     CacheView<uint16_t> v_cache) {
  let_next_kernel_start();
  const int64_t token = blockIdx.x;
  const int32_t half = p.head_dim / 2;
  const int32_t units = half / kWidth;  // of one head
  const Slot slot = slot_of(p, token);
  const float* rope = p.rope + p.positions[token] * p.rope_stride;
  wait_for_kernels_ahead();
  const int32_t heads = p.num_heads + 2 * p.num_kv_heads;
  for (auto item = static_cast<int32_t>(grid_unit()); item < heads * units;
       item += static_cast<int32_t>(gridDim.y * blockDim.x)) {
    const int32_t head = item / units;
    const int32_t i = item % units * kWidth;
    const int32_t kv_head = (head - p.num_heads) % p.num_kv_heads;
    float low[kWidth];
    float high[kWidth];
    if (head < p.num_heads) {
      rotate<kWidth>(p.q + token * p.q_stride + head * p.head_dim, rope, i, half, low, high);
      continue;
    }
    uint16_t* cached;
    if (head < p.num_heads + p.num_kv_heads) {
      rotate<kWidth>(p.k + token * p.k_stride + kv_head * p.head_dim, rope, i, half, low, high);
      cached = cache_row(k_cache, slot, kv_head);
    } else {
      const float* v = p.v + token * p.v_stride + kv_head * p.head_dim;
      load(v + i, low);
      load(v + half + i, high);
      cached = cache_row(v_cache, slot, kv_head);
    }
    store_bf16(cached + i, low);
    store_bf16(cached + half + i, high);
  }
}

template <int kWidth>
__device__ void raise(int32_t& largest, const float (&x)[kWidth]) {
#pragma unroll
  for (int j = 0; j < kWidth; ++j) {
    const int32_t bits = magnitude_bits(x[j]);
    largest = bits > largest ? bits : largest;
  }
}

template <int kWidth>
__device__ void store_codes(int8_t* to, const float* from, float inverse) {
  float x[kWidth];
  load(from, x);
  if constexpr (kWidth == 4) {
    *reinterpret_cast<uint32_t*>(to) = inverse == 0.0f ? 0 : code4(x, inverse);
  } else {
    *to = inverse == 0.0f ? int8_t{0} : static_cast<int8_t>(code(x[0], inverse));
  }
}

// One warp's head of k or v to the cache. `largest`: magnitude_bits of what each lane has; it reads
// no other elements than those.
template <int kWidth>
__device__ void store_head(const CodesView& cache, const Slot& slot, int32_t kv_head,
                           const float* head, int32_t half, int32_t largest) {
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const int32_t other = shfl_xor_s32(largest, mask);
    largest = other > largest ? other : largest;
  }
  const RowScale scale = row_scale(amax_of_bits(largest));
  if (lane == 0) *cache_row(cache.scales, slot, kv_head) = scale.scale;
  int8_t* codes = cache_row(cache.codes, slot, kv_head);
  for (int32_t i = lane * kWidth; i < half; i += kWarp * kWidth) {
    store_codes<kWidth>(codes + i, head + i, scale.inverse);
    store_codes<kWidth>(codes + half + i, head + half + i, scale.inverse);
  }
}

// One block per token, one warp per head; a lane takes kWidth pairs at a time.
template <int kWidth>
__global__ void RopeAndQuantizeKvKernel(RopeParams p, CodesView k_cache, CodesView v_cache) {
  let_next_kernel_start();
  const int64_t token = blockIdx.x;
  const auto first = static_cast<int32_t>(threadIdx.x % kWarp) * kWidth;
  const int32_t half = p.head_dim / 2;
  const Slot slot = slot_of(p, token);
  const float* rope = p.rope + p.positions[token] * p.rope_stride;
  wait_for_kernels_ahead();
  const int32_t rotated = p.num_heads + p.num_kv_heads;
  for (auto head = static_cast<int32_t>(threadIdx.x / kWarp); head < rotated + p.num_kv_heads;
       head += static_cast<int32_t>(blockDim.x / kWarp)) {
    float low[kWidth];
    float high[kWidth];
    int32_t largest = 0;
    if (head < rotated) {
      const int32_t kv_head = head - p.num_heads;
      float* row = kv_head < 0 ? p.q + token * p.q_stride + head * p.head_dim
                               : p.k + token * p.k_stride + kv_head * p.head_dim;
      for (int32_t i = first; i < half; i += kWarp * kWidth) {
        rotate<kWidth>(row, rope, i, half, low, high);
        raise(largest, low);
        raise(largest, high);
      }
      if (kv_head >= 0) store_head<kWidth>(k_cache, slot, kv_head, row, half, largest);
    } else {
      const float* row = p.v + token * p.v_stride + (head - rotated) * p.head_dim;
      for (int32_t i = first; i < half; i += kWarp * kWidth) {
        load(row + i, low);
        load(row + half + i, high);
        raise(largest, low);
        raise(largest, high);
      }
      store_head<kWidth>(v_cache, slot, head - rotated, row, half, largest);
    }
  }
}

template <typename T>
CacheView<T> ViewOf(T* data, const Tensor& cache) {
  return {.data = data,
          .block_stride = cache.stride(0),
          .head_stride = cache.stride(1),
          .position_stride = cache.stride(2)};
}

CacheView<uint16_t> Bf16View(const Tensor& cache) {
  return ViewOf(reinterpret_cast<uint16_t*>(cache.data<BFloat16>()), cache);
}

CodesView CodesOf(const Tensor& codes, const Tensor& scales) {
  return {.codes = ViewOf(codes.data<int8_t>(), codes),
          .scales = ViewOf(scales.data<float>(), scales)};
}

}  // namespace

void RopeAndStoreKv(const RopeArgs& args, cudaStream_t stream) {
  const int64_t head_dim = args.cache.k.shape(3);
  const int64_t num_kv_heads = args.cache.k.shape(1);
  CHECK_EQ(args.q.cols() % head_dim, 0);
  CHECK_EQ(args.k.cols(), num_kv_heads * head_dim);
  CHECK_EQ(args.v.cols(), num_kv_heads * head_dim);
  CHECK_EQ(args.rope.cols(), head_dim);
  CHECK_EQ(args.rows.slots.rows(), args.q.rows());
  const bool wide = head_dim % 8 == 0 && RowsAligned(args.q, 16) && RowsAligned(args.k, 16) &&
                    RowsAligned(args.v, 16) && RowsAligned(args.rope, 16) &&
                    RowsAligned(args.cache.k, 8) && RowsAligned(args.cache.v, 8);
  const RopeParams params = {.q = args.q.data<float>(),
                             .k = args.k.data<float>(),
                             .v = args.v.data<float>(),
                             .rope = args.rope.data<float>(),
                             .positions = args.rows.positions.data<int32_t>(),
                             .slots = args.rows.slots.data<int32_t>(),
                             .q_stride = args.q.stride(0),
                             .k_stride = args.k.stride(0),
                             .v_stride = args.v.stride(0),
                             .rope_stride = args.rope.stride(0),
                             .num_heads = static_cast<int32_t>(args.q.cols() / head_dim),
                             .num_kv_heads = static_cast<int32_t>(num_kv_heads),
                             .head_dim = static_cast<int32_t>(head_dim),
                             .block_size = static_cast<int32_t>(args.cache.k.shape(2))};
  const auto tokens = static_cast<unsigned>(args.q.rows());
  const int64_t heads = params.num_heads + 2 * int64_t{params.num_kv_heads};
  if (args.cache.quantized()) {
    Launch("RopeAndQuantizeKv", wide ? RopeAndQuantizeKvKernel<4> : RopeAndQuantizeKvKernel<1>,
           {.grid = dim3(tokens),
            .block = dim3(RowBlock(heads * kWarp, 512)),
            .stream = stream,
            .early = true},
           params, CodesOf(args.cache.k, args.cache.k_scales),
           CodesOf(args.cache.v, args.cache.v_scales));
    return;
  }
  // Few tokens have a thread for each piece.
  constexpr unsigned kFewTokens = 256;
  const int64_t pieces = heads * (head_dim / 2) / (wide ? 4 : 1);
  const unsigned threads = RowBlock(pieces, 256);
  const auto blocks = static_cast<unsigned>((pieces + threads - 1) / threads);
  Launch("RopeAndStoreKv", wide ? RopeAndStoreKvKernel<4> : RopeAndStoreKvKernel<1>,
         {.grid = dim3(tokens, tokens <= kFewTokens ? blocks : 1),
          .block = dim3(threads),
          .stream = stream,
          .early = true},
         params, Bf16View(args.cache.k), Bf16View(args.cache.v));
}

}  // namespace intermix::cuda
