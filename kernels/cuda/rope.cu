// Rotary embedding of q and k in place, and k and v into the paged cache as bfloat16.
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

struct CacheView {
  uint16_t* data;
  int64_t block_stride;  // elements
  int64_t head_stride;
  int64_t position_stride;
};

struct RopeParams {
  float* q;
  float* k;
  const float* v;
  const float* rope;
  const int32_t* positions;
  const int32_t* slots;
  CacheView k_cache;
  CacheView v_cache;
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

__device__ uint16_t* cache_row(const CacheView& cache, int64_t block, int64_t offset,
                               int64_t head) {
  return cache.data + block * cache.block_stride + head * cache.head_stride +
         offset * cache.position_stride;
}

// Rotates elements i and i + half of one head; kWidth of each. `cached`: the head's row in the
// cache, or null.
template <int kWidth>
__device__ void rotate(float* head, const float* rope, int32_t i, int32_t half, uint16_t* cached) {
  float low[kWidth];
  float high[kWidth];
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
  if (cached == nullptr) return;
  store_bf16(cached + i, low);
  store_bf16(cached + half + i, high);
}

// One block per token; a thread takes kWidth pairs of a head of q or k, or 2 * kWidth elements of
// v.
template <int kWidth>
__global__ void RopeAndStoreKvKernel(RopeParams p) {
  const int64_t token = blockIdx.x;
  const int32_t half = p.head_dim / 2;
  const int32_t units = half / kWidth;  // of one head
  const int32_t slot = p.slots[token];
  const int64_t block = slot / p.block_size;
  const int64_t offset = slot % p.block_size;
  const float* rope = p.rope + p.positions[token] * p.rope_stride;
  const int32_t heads = p.num_heads + 2 * p.num_kv_heads;
  for (auto item = static_cast<int32_t>(threadIdx.x); item < heads * units;
       item += static_cast<int32_t>(blockDim.x)) {
    const int32_t head = item / units;
    const int32_t i = item % units * kWidth;
    const int32_t kv_head = (head - p.num_heads) % p.num_kv_heads;
    if (head < p.num_heads) {
      rotate<kWidth>(p.q + token * p.q_stride + head * p.head_dim, rope, i, half, nullptr);
    } else if (head < p.num_heads + p.num_kv_heads) {
      rotate<kWidth>(p.k + token * p.k_stride + kv_head * p.head_dim, rope, i, half,
                     cache_row(p.k_cache, block, offset, kv_head));
    } else {
      const float* v = p.v + token * p.v_stride + kv_head * p.head_dim;
      uint16_t* cached = cache_row(p.v_cache, block, offset, kv_head);
      float x[kWidth];
      load(v + i, x);
      store_bf16(cached + i, x);
      load(v + half + i, x);
      store_bf16(cached + half + i, x);
    }
  }
}

CacheView ViewOf(const Tensor& cache) {
  return {.data = reinterpret_cast<uint16_t*>(cache.data<BFloat16>()),
          .block_stride = cache.stride(0),
          .head_stride = cache.stride(1),
          .position_stride = cache.stride(2)};
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
                             .k_cache = ViewOf(args.cache.k),
                             .v_cache = ViewOf(args.cache.v),
                             .q_stride = args.q.stride(0),
                             .k_stride = args.k.stride(0),
                             .v_stride = args.v.stride(0),
                             .rope_stride = args.rope.stride(0),
                             .num_heads = static_cast<int32_t>(args.q.cols() / head_dim),
                             .num_kv_heads = static_cast<int32_t>(num_kv_heads),
                             .head_dim = static_cast<int32_t>(head_dim),
                             .block_size = static_cast<int32_t>(args.cache.k.shape(2))};
  const int64_t units =
      (params.num_heads + 2 * int64_t{params.num_kv_heads}) * (head_dim / 2) / (wide ? 4 : 1);
  Launch("RopeAndStoreKv", wide ? RopeAndStoreKvKernel<4> : RopeAndStoreKvKernel<1>,
         {.grid = dim3(static_cast<unsigned>(args.q.rows())),
          .block = dim3(RowBlock(units, 256)),
          .stream = stream},
         params);
}

}  // namespace intermix::cuda
