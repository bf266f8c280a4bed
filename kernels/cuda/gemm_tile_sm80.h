// Compile-time geometry of one GEMM kernel: a row of kGemmTiles in one GemmMode, and how its shared
// memory is laid out. Device code.
//
//   header  [128] flag of the last block, then [num_experts + 1] first row tile of each expert,
//           then, of kDecode, [num_experts] GemmExpert
//   stages  each: codes [block tiles, units, 512], rows [tokens, 128], scales [block tiles, 4, 16];
//           of kDecode [warps, stages], and then the sums
//
// Rows are swizzled: the 16-byte piece p of token m lies at piece p ^ (m % 8), so that eight lanes
// of ldmatrix (one piece of eight tokens) and of cp.async (eight pieces of one token) both touch
// all 32 banks. Codes are read by the lane order they are stored in, which needs no swizzle.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/gemm_types.h"
#include "kernels/cuda/ptx.h"

namespace intermix::cuda {

template <int kTileIndex, GemmMode kGemmMode>
struct Geometry {
  static constexpr GemmMode kMode = kGemmMode;
  static constexpr GemmFamily kFamily = kGemmTiles[kTileIndex].family;
  static constexpr int kFeatureTiles = kGemmTiles[kTileIndex].feature_tiles;
  static constexpr int kTokenTiles = kGemmTiles[kTileIndex].token_tiles;
  static constexpr bool kHalves = kGemmTiles[kTileIndex].halves();
  static constexpr int kWarpsN = kGemmTiles[kTileIndex].warps_n;
  static constexpr int kWarpsK = kGemmTiles[kTileIndex].warps_k;
  static constexpr int kThreads = kGemmTiles[kTileIndex].threads();
  static constexpr int kLoadThreads = kGemmTiles[kTileIndex].load_threads();
  static constexpr int kFirstLoadThread = kThreads - kLoadThreads;
  static constexpr int kBlockTiles = kFeatureTiles * kWarpsN;
  static constexpr int kFeatures = kGemmTiles[kTileIndex].features();
  static constexpr int kTokens = kGemmTiles[kTileIndex].tokens();
  static constexpr int kBlocksPerSm = kGemmTiles[kTileIndex].blocks_per_sm;

  // Threads that load have registers for what others find again in each stage.
  static constexpr bool kSpareRegisters =
      kFamily == GemmFamily::kWgmma ||
      (kFamily == GemmFamily::kDecode && kThreads * kBlocksPerSm <= 256);

  static constexpr int kBits = CodeBits(kMode);
  static constexpr int kStages = kGemmTiles[kTileIndex].stages(kBits);
  static constexpr bool kPromotes = Promotes(kMode);
  static constexpr bool kFloat = SumsInFloat(kMode);
  static constexpr bool kFolds = kMode == GemmMode::kFolded4;
  static constexpr bool kBiased = kFolds && kFamily == GemmFamily::kDecode;  // Accumulators::rows
  using Sum = std::conditional_t<kFloat, float, int32_t>;

  static constexpr int kUnitSteps = UnitSteps(kBits);
  static constexpr int kTileUnits = kStageSteps / kUnitSteps;  // of one feature tile in a stage
  static constexpr int kScaleBytes = ScaleBytes(kMode);
  static constexpr int kRowsAt = kGemmTiles[kTileIndex].CodeBytes(kMode);
  static constexpr int kScalesAt = kRowsAt + kGemmTiles[kTileIndex].RowBytes();
  static constexpr int kStageBytes = kGemmTiles[kTileIndex].StageBytes(kMode);
  static_assert(kStageBytes % 128 == 0);
};

// Which group of K a step belongs to.
struct GroupIndex {
  int32_t count;
  int32_t shift;

  GroupIndex() = default;
  INTERMIX_DEVICE explicit GroupIndex(const GemmExpert& expert)
      : count(expert.num_groups), shift(expert.group_shift) {}
  INTERMIX_DEVICE int32_t Of(int32_t step) const { return step >> shift; }
};

// Where a tile lies in y.
struct TilePlace {
  int32_t expert = 0;
  int32_t feature = 0;   // its first out feature
  int32_t row = 0;       // its first row
  int32_t num_rows = 0;  // rows that exist, of the tile's
};

// Where this thread stands: lane (g, t) of the mma fragment tables, and its warp in the block.
template <class G>
struct ThreadPlace {
  int lane;
  int warp_n;
  int warp_m;

  INTERMIX_DEVICE explicit ThreadPlace(int32_t thread)
      : lane(thread % 32), warp_n(thread / 32 % G::kWarpsN), warp_m(thread / 32 / G::kWarpsN) {}
  INTERMIX_DEVICE int g() const { return lane / 4; }
  INTERMIX_DEVICE int t() const { return lane % 4; }
  // Of the block's features, the even one of this lane's pair in the warp's feature tile i.
  INTERMIX_DEVICE int Feature(int i) const {
    return (warp_n * G::kFeatureTiles + i) * 16 + 2 * g();
  }
  // Of the block's tokens, the even one of this lane's pair in the warp's token tile j.
  INTERMIX_DEVICE int Token(int j) const { return (warp_m * G::kTokenTiles + j) * 8 + 2 * t(); }
};

}  // namespace intermix::cuda
