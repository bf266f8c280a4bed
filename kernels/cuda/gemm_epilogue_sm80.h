// From a tile's sums to y: summing over the blocks that shared its K, scaling, rounding, storing.
// Device code.
#pragma once

#include "kernels/cuda/gemm_fragments_sm80.h"

namespace intermix::cuda {

// Adds this block's sums of `stages_done` stages to the slot of the tile. True in the one block
// that completes the tile: its `acc` then holds the whole sums, and slot and counter are zero
// again. Integers, so the order in which blocks arrive does not matter.
template <class G>
INTERMIX_DEVICE bool SumOverBlocks(const GemmArgs& args, const ThreadPlace<G>& place, int32_t slot,
                                   int32_t num_rows, int32_t stages_done, int32_t num_stages,
                                   Accumulators<G>& acc) {
  int32_t* const is_last = reinterpret_cast<int32_t*>(shared_memory());
  int32_t* counter = args.workspace + slot;
  int32_t* sums = args.workspace + kGemmMaxBlocks +
                  static_cast<int64_t>(slot) * (G::kFeatures * G::kTokens) + threadIdx.x;
#pragma unroll
  for (int i = 0; i < G::kFeatureTiles; ++i) {
#pragma unroll
    for (int e = 0; e < G::kTokenTiles * 4; ++e) {
      if (place.Token(e / 4) + e % 2 < num_rows) {
        red_add_s32(sums + (i * G::kTokenTiles * 4 + e) * G::kThreads, acc.sum[i][e / 4][e % 4]);
      }
    }
  }
  fence_device();
  sync_block();
  if (threadIdx.x == 0) {
    *is_last = red_add_s32(counter, stages_done) + stages_done == num_stages ? 1 : 0;
  }
  sync_block();
  if (*is_last == 0) return false;
  fence_device();
#pragma unroll
  for (int i = 0; i < G::kFeatureTiles; ++i) {
#pragma unroll
    for (int e = 0; e < G::kTokenTiles * 4; ++e) {
      if (place.Token(e / 4) + e % 2 < num_rows) {
        int32_t* sum = sums + (i * G::kTokenTiles * 4 + e) * G::kThreads;
        acc.sum[i][e / 4][e % 4] = ld_l2_s32(sum);
        *sum = 0;
      }
    }
  }
  if (threadIdx.x == 0) *counter = 0;
  return true;
}

// What an out feature is multiplied by: an integer, then its channel scale.
template <class G>
struct FeatureScale {
  int32_t multiplier = 1;
  float channel = 1.0f;

  INTERMIX_DEVICE void Read(const GemmExpert& expert, int32_t feature) {
    if constexpr (G::kFloat) return;
    if (!G::kPromotes && expert.multipliers != nullptr) multiplier = expert.multipliers[feature];
    channel = expert.channel_scales[feature];
  }

  // The bits of one output: the sum itself, or (float(sum) * c) * a, or sum * a of a float sum.
  INTERMIX_DEVICE uint32_t Bits(typename G::Sum sum, bool as_sum, float row_scale) const {
    if constexpr (G::kFloat) {
      return bits_of_float(mul_rn(sum, row_scale));
    } else {
      if (!G::kPromotes) sum *= multiplier;
      return as_sum ? static_cast<uint32_t>(sum)
                    : bits_of_float(mul_rn(mul_rn(to_f32(sum), channel), row_scale));
    }
  }
};

// Stores two adjacent outputs, of which the second may not exist.
struct PairStore {
  bool bf16;    // else 32 bits as they are
  bool second;  // the second exists
  bool vector;  // it does, and the address is aligned for both

  INTERMIX_DEVICE void operator()(char* to, uint32_t a, uint32_t b) const {
    if (bf16) {
      const uint32_t low = to_bf16(float_of_bits(a));
      const uint32_t high = to_bf16(float_of_bits(b));
      if (vector) {
        *reinterpret_cast<uint32_t*>(to) = low | high << 16;
      } else {
        *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(low);
        if (second) *reinterpret_cast<uint16_t*>(to + 2) = static_cast<uint16_t>(high);
      }
    } else if (vector) {
      *reinterpret_cast<uint2*>(to) = make_uint2(a, b);
    } else {
      *reinterpret_cast<uint32_t*>(to) = a;
      if (second) *reinterpret_cast<uint32_t*>(to + 4) = b;
    }
  }
};

template <class G>
INTERMIX_DEVICE void StoreTile(const GemmArgs& args, const ThreadPlace<G>& place,
                               const TilePlace& tile, const Accumulators<G>& acc) {
  const GemmExpert& expert = args.experts[tile.expert];
  const bool as_sum = args.output == GemmOutput::kI32;
  const bool bf16 = args.output == GemmOutput::kBF16;
  const int32_t bytes = bf16 ? 2 : 4;
  const bool pairs =
      reinterpret_cast<uintptr_t>(args.y) % (2 * bytes) == 0 && args.y_stride % 2 == 0;
  FeatureScale<G> scales[G::kFeatureTiles][2];
#pragma unroll
  for (int i = 0; i < G::kFeatureTiles; ++i) {
    const int32_t feature = tile.feature + place.Feature(i);
    if (feature >= args.n) continue;  // the arrays are padded: feature + 1 is there
    scales[i][0].Read(expert, feature);
    scales[i][1].Read(expert, feature + 1);
  }
  char* const corner = static_cast<char*>(args.y) +
                       (tile.row * args.y_stride + tile.feature + place.Feature(0)) * bytes;
#pragma unroll
  for (int j = 0; j < G::kTokenTiles; ++j) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int token = place.Token(j) + h;
      if (token >= tile.num_rows) continue;
      const float row_scale = as_sum ? 1.0f : args.x_scales[tile.row + token];
      char* const row = corner + token * args.y_stride * bytes;
#pragma unroll
      for (int i = 0; i < G::kFeatureTiles; ++i) {
        const int32_t feature = tile.feature + place.Feature(i);
        if (feature >= args.n) continue;
        const bool second = feature + 1 < args.n;
        const PairStore store{bf16, second, second && pairs};
        store(row + i * 16 * bytes, scales[i][0].Bits(acc.sum[i][j][h], as_sum, row_scale),
              scales[i][1].Bits(acc.sum[i][j][2 + h], as_sum, row_scale));
      }
    }
  }
}

}  // namespace intermix::cuda
