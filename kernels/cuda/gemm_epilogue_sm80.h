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
    *is_last = atom_add_s32(counter, stages_done) + stages_done == num_stages ? 1 : 0;
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
  int32_t multiplier;
  float channel;

  INTERMIX_DEVICE void Read(const GemmExpert& expert, int32_t feature) {
    multiplier = 1;
    channel = 1.0f;
    if constexpr (G::kFloat) return;
    if (!G::kPromotes && expert.multipliers != nullptr) multiplier = expert.multipliers[feature];
    channel = expert.channel_scales[feature];
  }

  // (float(sum) * c) * a, or sum * a of a float sum.
  INTERMIX_DEVICE float Value(typename G::Sum sum, float row_scale) const {
    if constexpr (G::kFloat) return mul_rn(sum, row_scale);
    if (!G::kPromotes) sum *= multiplier;
    return mul_rn(mul_rn(to_f32(sum), channel), row_scale);
  }

  // One output as y holds it: the sum itself, or its value.
  template <GemmOutput kOutput>
  INTERMIX_DEVICE uint32_t Bits(typename G::Sum sum, float row_scale) const {
    if constexpr (kOutput == GemmOutput::kI32) {
      return static_cast<uint32_t>(G::kPromotes ? sum : sum * multiplier);
    }
    const float value = Value(sum, row_scale);
    return kOutput == GemmOutput::kBF16 ? to_bf16(value) : bits_of_float(value);
  }
};

// Stores two adjacent outputs: at once, or one by one where the second may not exist or the pair
// is not aligned.
template <int kBytes, bool kVector>
INTERMIX_DEVICE void StorePair(char* to, uint32_t a, uint32_t b, bool second) {
  using Element = std::conditional_t<kBytes == 2, uint16_t, uint32_t>;
  if constexpr (kVector && kBytes == 2) {
    *reinterpret_cast<uint32_t*>(to) = a | b << 16;
  } else if constexpr (kVector) {
    *reinterpret_cast<uint2*>(to) = make_uint2(a, b);
  } else {
    *reinterpret_cast<Element*>(to) = static_cast<Element>(a);
    if (second) *reinterpret_cast<Element*>(to + kBytes) = static_cast<Element>(b);
  }
}

// The scales of this lane's tokens in some token tiles, from the first on; read before anything is
// stored, since a load may not pass a store.
template <class G, GemmOutput kOutput>
struct RowScales {
  static constexpr int kTiles = G::kTokenTiles < 8 ? G::kTokenTiles : 8;
  float of_token[kTiles][2];

  INTERMIX_DEVICE RowScales(const GemmArgs& args, const ThreadPlace<G>& place,
                            const TilePlace& tile, int first) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int token = place.Token(first + j) + h;
        of_token[j][h] = 1.0f;
        if (kOutput != GemmOutput::kI32 && token < tile.num_rows) {
          of_token[j][h] = args.x_scales[tile.row + token];
        }
      }
    }
  }
};

//   kWhole  every out feature of the tile exists, and pairs of outputs are aligned
template <class G, GemmOutput kOutput, bool kWhole>
INTERMIX_DEVICE void StoreTileAs(const GemmArgs& args, const ThreadPlace<G>& place,
                                 const TilePlace& tile, const Accumulators<G>& acc) {
  constexpr int kBytes = kOutput == GemmOutput::kBF16 ? 2 : 4;
  const GemmExpert& expert = args.experts[tile.expert];
  const int32_t feature = tile.feature + place.Feature(0);
  const int32_t features_left = args.n - feature;
  char* const corner = static_cast<char*>(args.y) + (tile.row * args.y_stride + feature) * kBytes;
#pragma unroll
  for (int first = 0; first < G::kTokenTiles; first += RowScales<G, kOutput>::kTiles) {
    const RowScales<G, kOutput> row_scales(args, place, tile, first);
#pragma unroll
    for (int i = 0; i < G::kFeatureTiles; ++i) {
      if (!kWhole && i * 16 >= features_left) break;
      FeatureScale<G> scales[2];
      scales[0].Read(expert, feature + i * 16);
      scales[1].Read(expert, feature + i * 16 + 1);  // is there: the arrays are padded
#pragma unroll
      for (int j = 0; j < RowScales<G, kOutput>::kTiles; ++j) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int token = place.Token(first + j) + h;
          if (token >= tile.num_rows) continue;
          const float row_scale = row_scales.of_token[j][h];
          StorePair<kBytes, kWhole>(
              corner + (token * args.y_stride + i * 16) * kBytes,
              scales[0].template Bits<kOutput>(acc.sum[i][first + j][h], row_scale),
              scales[1].template Bits<kOutput>(acc.sum[i][first + j][2 + h], row_scale),
              i * 16 + 1 < features_left);
        }
      }
    }
  }
}

template <class G, GemmOutput kOutput>
INTERMIX_DEVICE void StoreTileAs(const GemmArgs& args, const ThreadPlace<G>& place,
                                 const TilePlace& tile, const Accumulators<G>& acc) {
  constexpr int kPairBytes = kOutput == GemmOutput::kBF16 ? 4 : 8;
  const bool pairs =
      reinterpret_cast<uintptr_t>(args.y) % kPairBytes == 0 && args.y_stride % 2 == 0;
  if (pairs && tile.feature + G::kFeatures <= args.n) {
    StoreTileAs<G, kOutput, true>(args, place, tile, acc);
  } else {
    StoreTileAs<G, kOutput, false>(args, place, tile, acc);
  }
}

template <class G>
INTERMIX_DEVICE void StoreTile(const GemmArgs& args, const ThreadPlace<G>& place,
                               const TilePlace& tile, const Accumulators<G>& acc) {
  if (args.output == GemmOutput::kF32) {
    StoreTileAs<G, GemmOutput::kF32>(args, place, tile, acc);
  } else if (args.output == GemmOutput::kBF16) {
    StoreTileAs<G, GemmOutput::kBF16>(args, place, tile, acc);
  } else if constexpr (!G::kFloat) {
    StoreTileAs<G, GemmOutput::kI32>(args, place, tile, acc);
  }
}

}  // namespace intermix::cuda
