// Multiplying one pipeline stage: fragments from shared memory, codes to int8 in registers, mma,
// and promotion of partial sums where a group of K ends. Device code.
#pragma once

#include "kernels/cuda/gemm_fragments_sm80.h"

namespace intermix::cuda {

// Adds the partial sums of a finished group to the sums.
template <class G>
INTERMIX_DEVICE void Promote(const char* stage, const ThreadPlace<G>& place, int slot,
                             Accumulators<G>& acc) {
  constexpr int kShift = G::kBits == 4 ? 4 : 0;
#pragma unroll
  for (int i = 0; i < G::kFeatureTiles; ++i) {
    const char* pair = ScalePair<G>(stage, place, i, slot);
    typename G::Sum scale[2];
    if constexpr (G::kFloat) {
      const float2 scales = *reinterpret_cast<const float2*>(pair);
      scale[0] = scales.x, scale[1] = scales.y;
    } else {
      const uint32_t scales = *reinterpret_cast<const uint32_t*>(pair);
      scale[0] = static_cast<int16_t>(scales), scale[1] = static_cast<int16_t>(scales >> 16);
    }
#pragma unroll
    for (int j = 0; j < G::kTokenTiles; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int32_t partial = acc.partial[i][j][c] >> kShift;
        if constexpr (G::kFloat) {
          acc.sum[i][j][c] = fma_rn(to_f32(partial), scale[c / 2], acc.sum[i][j][c]);
        } else {
          acc.sum[i][j][c] += scale[c / 2] * partial;
        }
      }
    }
  }
}

// Multiplies one stage whose groups have kGroupSteps steps each, or whose steps all belong to one
// group where kGroupSteps is kStageSteps; that group is then promoted if `promote`.
//   num_groups  of K, from the stage's first; the stage may reach beyond K
template <class G, int kGroupSteps, int kTokenTiles>
INTERMIX_DEVICE void MultiplyStage(const char* stage, const ThreadPlace<G>& place, bool promote,
                                   int32_t num_groups, Accumulators<G>& acc) {
  const char* codes =
      stage + place.warp_n * G::kFeatureTiles * G::kTileUnits * kUnitBytes + place.lane * 16;
  uint4 units[G::kFeatureTiles];
  RowFragments<G> rows;
  Fold folds[G::kFeatureTiles][2];
#pragma unroll
  for (int step = 0; step < kStageSteps; ++step) {
    if (step % G::kUnitSteps == 0) {
#pragma unroll
      for (int i = 0; i < G::kFeatureTiles; ++i) {
        const int unit = i * G::kTileUnits + step / G::kUnitSteps;
        units[i] = *reinterpret_cast<const uint4*>(codes + unit * kUnitBytes);
      }
    }
    rows.Load(stage, place, step);
    if (G::kFolds && step % kGroupSteps == 0) {
      LoadFolds<G>(stage, place, step / kGroupSteps, folds);
    }
#pragma unroll
    for (int i = 0; i < G::kFeatureTiles; ++i) {
      uint32_t a[4];
      UnpackCodes<G>(units[i], step % G::kUnitSteps, folds[i], a);
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j) {
        if constexpr (G::kPromotes) {
          mma_m16n8k32_s8(acc.partial[i][j], a, rows.b[step % 2][j]);
        } else if constexpr (G::kBiased) {
          mma_m16n8k32_u8_s8(acc.sum[i][j], a, rows.b[step % 2][j]);
        } else {
          mma_m16n8k32_s8(acc.sum[i][j], a, rows.b[step % 2][j]);
        }
      }
    }
    if constexpr (G::kBiased) {
#pragma unroll
      for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
        for (const uint32_t bytes : rows.b[step % 2][j]) {
          acc.rows[j] = dot_s8x4(bytes, 0x01010101u, acc.rows[j]);
        }
      }
    }
    if constexpr (G::kPromotes) {
      if ((step + 1) % kGroupSteps == 0 && (kGroupSteps < kStageSteps || promote)) {
        // Beyond K there is nothing to add: a float sum of -0 would even change. The branch also
        // keeps the compiler from mixing two groups' sums, for which there are no registers.
        if (step / kGroupSteps < num_groups) {
          Promote<G>(stage, place, step / kGroupSteps, acc);
          acc.ClearPartial();
        }
      }
    }
  }
}

// Multiplies stage `stage_index` of K with the first kTokenTiles of the warp's token tiles.
//   last  the block takes no later stage of this tile
template <class G, int kTokenTiles = G::kTokenTiles>
INTERMIX_DEVICE void ComputeStage(const char* stage, const ThreadPlace<G>& place,
                                  const GroupIndex& groups, int stage_index, bool last,
                                  Accumulators<G>& acc) {
  const int32_t num_groups = groups.count - groups.Of(stage_index * kStageSteps);
  if (G::kScaleBytes > 0 && groups.shift == 0) {
    MultiplyStage<G, 1, kTokenTiles>(stage, place, true, num_groups, acc);
  } else if (G::kScaleBytes > 0 && groups.shift == 1) {
    MultiplyStage<G, 2, kTokenTiles>(stage, place, true, num_groups, acc);
  } else {
    const int32_t next_step = (stage_index + 1) * kStageSteps;
    const bool group_ends = groups.Of(next_step) != groups.Of(next_step - 1);
    MultiplyStage<G, kStageSteps, kTokenTiles>(stage, place, group_ends || last, num_groups, acc);
  }
}

}  // namespace intermix::cuda
