// Who computes what: tiles of (expert, rows, out features) counted on the device from row_offsets,
// and each block's share of them. Device code.
//
// Grids are sized from the number of rows that may come, so a captured graph serves any routing:
// blocks work their share out themselves, and experts without rows have no tiles at all.
#pragma once

#include "kernels/cuda/gemm_tile_sm80.h"

namespace intermix::cuda {

// Tiles are numbered so that those which run at the same time share rows and weights in L2: within
// an expert by panels of this many row tiles, in a panel by slab of out features, then by row tile.
inline constexpr int32_t kPanelRowTiles = 16;

// The rows of one expert.
struct ExpertRows {
  int32_t begin;
  int32_t count;

  INTERMIX_DEVICE ExpertRows(const GemmArgs& args, int32_t expert)
      : begin(args.row_offsets == nullptr ? 0 : args.row_offsets[expert]),
        count((args.row_offsets == nullptr ? args.rows : args.row_offsets[expert + 1]) - begin) {}
};

// [num_experts + 1] in shared memory: row tiles of the experts before each that have mode kMode.
template <class G>
INTERMIX_DEVICE int32_t* FirstRowTiles() {
  return reinterpret_cast<int32_t*>(shared_memory() + 128);
}

// Fills FirstRowTiles; the first warp's work.
template <class G>
INTERMIX_DEVICE void CountRowTiles(const GemmArgs& args) {
  if (threadIdx.x >= 32) return;
  int32_t* const first = FirstRowTiles<G>();
  const int lane = static_cast<int>(threadIdx.x);
  int32_t before = 0;
#pragma unroll 1
  for (int32_t base = 0; base < args.num_experts; base += 32) {
    const int32_t expert = base + lane;
    int32_t tiles = 0;
    if (args.row_offsets == nullptr) {  // the only expert, whose mode is the launch's
      if (lane == 0) tiles = (args.rows + G::kTokens - 1) / G::kTokens;
    } else if (expert < args.num_experts) {
      // Read beside the mode, not after it: every block waits for this.
      const int32_t rows = opaque(ExpertRows(args, expert).count);
      if (args.experts[expert].mode == G::kMode) tiles = (rows + G::kTokens - 1) / G::kTokens;
    }
    int32_t sum = tiles;  // over the lanes up to this one
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int32_t other = shfl_s32(sum, lane < distance ? lane : lane - distance);
      if (lane >= distance) sum += other;
    }
    if (expert < args.num_experts) first[expert + 1] = before + sum;
    before += shfl_s32(sum, 31);
  }
  if (lane == 0) first[0] = 0;
}

template <class G>
INTERMIX_DEVICE int32_t NumSlabs(const GemmArgs& args) {
  return (args.n + G::kFeatures - 1) / G::kFeatures;
}
template <class G>
INTERMIX_DEVICE int32_t NumStages(const GemmArgs& args) {
  // Found again rather than kept, where registers are scarce.
  const int32_t k = G::kFamily == GemmFamily::kWgmma ? opaque(args.k) : args.k;
  return (k + kStageK - 1) / kStageK;
}

// Finds tiles by ascending number.
template <class G>
struct TileFinder {
  int32_t expert = 0;

  INTERMIX_DEVICE TilePlace Find(const GemmArgs& args, int32_t tile) {
    const int32_t* const first = FirstRowTiles<G>();
    const int32_t slabs = NumSlabs<G>(args);
    while (tile >= first[expert + 1] * slabs) ++expert;
    const int32_t row_tiles = first[expert + 1] - first[expert];
    const int32_t in_expert = tile - first[expert] * slabs;
    if (G::kFamily == GemmFamily::kDecode && row_tiles == 1) {  // as below, without the divisions
      const ExpertRows rows(args, expert);
      return {.expert = expert,
              .feature = in_expert * G::kFeatures,
              .row = rows.begin,
              .num_rows = rows.count};
    }
    const int32_t panel = in_expert / (kPanelRowTiles * slabs);
    const int32_t in_panel = in_expert - panel * kPanelRowTiles * slabs;
    const int32_t left = row_tiles - panel * kPanelRowTiles;
    const int32_t height = left < kPanelRowTiles ? left : kPanelRowTiles;
    const int32_t slab = in_panel / height;
    const int32_t begin = (panel * kPanelRowTiles + in_panel - slab * height) * G::kTokens;
    const ExpertRows rows(args, expert);
    const int32_t rows_left = rows.count - begin;
    return {.expert = expert,
            .feature = slab * G::kFeatures,
            .row = rows.begin + begin,
            .num_rows = rows_left < G::kTokens ? rows_left : G::kTokens};
  }
};

// A block's units, one after the other: the stages of a tile, then those of its next tile.
template <class G>
struct UnitWalk {
  int32_t tile;
  int32_t stage;

  INTERMIX_DEVICE bool at_last_stage(const GemmArgs& args) const {
    return stage + 1 == NumStages<G>(args);
  }
  INTERMIX_DEVICE void Next(const GemmArgs& args) {
    const bool tile_ends = at_last_stage(args);
    const int32_t stride = G::kFamily == GemmFamily::kSmallM ? 1 : static_cast<int32_t>(gridDim.x);
    tile += tile_ends ? stride : 0;
    stage = tile_ends ? 0 : stage + 1;
  }
};

template <class G>
struct BlockShare {
  UnitWalk<G> walk;
  int32_t units;  // that are this block's
  int32_t chunk;  // kSmallM: units of every block but the last
};

// kSmallM: block b takes units [b * chunk, (b + 1) * chunk), in whole tiles where K may not be
// split. Other families: block b takes tiles b, b + blocks, ...
template <class G>
INTERMIX_DEVICE BlockShare<G> ShareOf(const GemmArgs& args, int32_t min_units) {
  const int32_t num_tiles = FirstRowTiles<G>()[args.num_experts] * NumSlabs<G>(args);
  const int32_t stages = NumStages<G>(args);
  const int32_t blocks = static_cast<int32_t>(gridDim.x);
  const int32_t block = static_cast<int32_t>(blockIdx.x);
  if constexpr (G::kFamily != GemmFamily::kSmallM) {
    const int32_t tiles = block < num_tiles ? (num_tiles - block - 1) / blocks + 1 : 0;
    return {.walk = {block, 0}, .units = tiles * stages, .chunk = 0};
  } else {
    const int32_t units = num_tiles * stages;
    int32_t chunk = (units - 1) / blocks + 1;
    if (chunk < min_units) chunk = min_units;
    if (G::kFloat) chunk = (chunk - 1) / stages * stages + stages;
    const int64_t begin = static_cast<int64_t>(block) * chunk;
    if (begin >= units) return {.walk = {0, 0}, .units = 0, .chunk = chunk};
    const int32_t first = static_cast<int32_t>(begin);
    return {.walk = {first / stages, first % stages},
            .units = units - first < chunk ? units - first : chunk,
            .chunk = chunk};
  }
}

}  // namespace intermix::cuda
