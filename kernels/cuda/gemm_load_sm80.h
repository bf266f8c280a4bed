// Filling pipeline stages: codes, rows and scales of 128 in-features each, by cp.async of 16-byte
// pieces. What lies outside the weight or the rows is filled with zeros. Device code.
#pragma once

#include "kernels/cuda/gemm_tile_sm80.h"

namespace intermix::cuda {

// Loads the stages of one tile; this thread's share of the pieces is the same in all of them. The
// threads that load are the block's, a warpgroup of it, or (kDecode) each warp for itself.
template <class G>
class TileLoader {
 public:
  // Of the threads that load.
  INTERMIX_DEVICE static int Thread() {
    if (G::kFamily == GemmFamily::kDecode) return static_cast<int>(threadIdx.x) % 32;
    return static_cast<int>(threadIdx.x) - G::kFirstLoadThread;
  }

  TileLoader() = default;
  INTERMIX_DEVICE TileLoader(const GemmArgs& args, const GemmExpert& expert,
                             const TilePlace& tile) {
    const int thread = Thread();
    const int32_t first_tile = tile.feature / 16;
    const int32_t num_tiles = (args.n + 15) / 16 - first_tile;
    const int my_tile = thread / kTilePieces;
    codes_ = static_cast<const char*>(expert.codes) + (first_tile + my_tile) * TileBytes(args) +
             thread % kTilePieces * 16;
    tiles_left_ = num_tiles - my_tile;

    const int token = thread / 8;
    rows_ = args.x + (tile.row + token) * args.x_stride + thread % 8 * 16;
    rows_left_ = tile.num_rows - token;

    groups_ = GroupIndex(expert);
    if constexpr (G::kScaleBytes > 0) {
      const int scale_tile = thread / kScalePieces;
      const int slot = thread % kScalePieces / G::kScaleBytes;
      scales_ = static_cast<const char*>(expert.scales) +
                (static_cast<int64_t>(first_tile + scale_tile) * groups_.count + slot) *
                    (16 * G::kScaleBytes) +
                thread % G::kScaleBytes * 16;
      const bool touched = slot == 0 || slot << groups_.shift < kStageSteps;
      scale_groups_left_ = scale_tile < num_tiles && touched ? groups_.count - slot : 0;
    }
  }

  // `aligned`: every row of x begins at a multiple of 16 bytes.
  INTERMIX_DEVICE void Load(char* stage, const GemmArgs& args, bool aligned,
                            int stage_index) const {
    LoadWeight(stage, args, stage_index);
    LoadRows(stage, args, aligned, stage_index);
  }

  INTERMIX_DEVICE void LoadWeight(char* stage, const GemmArgs& args, int stage_index) const {
    LoadCodes(stage, args, stage_index);
    if constexpr (G::kScaleBytes > 0) LoadScales(stage, stage_index);
  }

  INTERMIX_DEVICE void LoadRows(char* stage, const GemmArgs& args, bool aligned,
                                int stage_index) const {
    const int thread = Thread();
    const int token = thread / 8;
    const auto shared = [&](int first) {
      return stage + G::kRowsAt + (token + first) * kStageK + (thread ^ (token + first)) % 8 * 16;
    };
    const int8_t* global = rows_ + stage_index * kStageK;
    const int left = args.k - stage_index * kStageK - thread % 8 * 16;  // of K
    if (aligned && (stage_index + 1) * kStageK <= args.k) {
#pragma unroll
      for (int first = 0; first < G::kTokens; first += kTokensAtOnce) {
        if (G::kTokens % kTokensAtOnce != 0 && token + first >= G::kTokens) break;
        cp_async_16(shared(first), global + first * args.x_stride, first < rows_left_);
      }
      return;
    }
#pragma unroll 1
    for (int first = 0; first < G::kTokens; first += kTokensAtOnce) {
      if (G::kTokens % kTokensAtOnce != 0 && token + first >= G::kTokens) break;
      LoadRowPiece(shared(first), global + first * args.x_stride, first < rows_left_ ? left : 0,
                   aligned);
    }
  }

 private:
  static constexpr int kTilePieces = G::kTileUnits * 32;  // codes of one feature tile
  static constexpr int kTilesAtOnce = G::kLoadThreads / kTilePieces;
  static constexpr int kTokensAtOnce = G::kLoadThreads / 8;
  static constexpr int kScalePieces = kStageSteps * G::kScaleBytes;  // of one feature tile
  static_assert(kTilesAtOnce == 0 || G::kBlockTiles % kTilesAtOnce == 0);
  static_assert(G::kBlockTiles * kScalePieces <= G::kLoadThreads);

  // Of one feature tile.
  INTERMIX_DEVICE static int32_t Units(const GemmArgs& args) {
    constexpr int kUnitK = G::kUnitSteps * kStepK;
    return (args.k + kUnitK - 1) / kUnitK;
  }
  INTERMIX_DEVICE static int64_t TileBytes(const GemmArgs& args) {
    return static_cast<int64_t>(Units(args)) * kUnitBytes;
  }

  // A decode step reads a weight once and comes back to it when L2 has seen all the others; what
  // little else it needs shall be there.
  INTERMIX_DEVICE static void CopyWeight(char* shared, const char* global, bool valid) {
    if constexpr (G::kFamily == GemmFamily::kDecode) {
      cp_async_16_once(shared, global, valid);
    } else {
      cp_async_16(shared, global, valid);
    }
  }

  INTERMIX_DEVICE void LoadCodes(char* stage, const GemmArgs& args, int stage_index) const {
    char* shared = stage + Thread() * 16;
    const char* global = codes_ + stage_index * (G::kTileUnits * kUnitBytes);
    const int unit = stage_index * G::kTileUnits + Thread() % kTilePieces / 32;
    if constexpr (kTilesAtOnce == 0) {  // a warp: unit by unit
#pragma unroll
      for (int i = 0; i < G::kBlockTiles * G::kTileUnits; ++i) {
        const int tile = i / G::kTileUnits;
        const int u = i % G::kTileUnits;
        CopyWeight(shared + i * kUnitBytes, global + tile * TileBytes(args) + u * kUnitBytes,
                   unit + u < Units(args) && tile < tiles_left_);
      }
      return;
    }
    const bool unit_exists = unit < Units(args);
#pragma unroll
    for (int tile = 0; tile < G::kBlockTiles; tile += kTilesAtOnce) {
      CopyWeight(shared + tile * kTilePieces * 16, global + tile * TileBytes(args),
                 unit_exists && tile < tiles_left_);
    }
  }

  // 16 in-features of a row, of which `left` exist. Rows that are not aligned, and the ragged end
  // of K, are copied by byte.
  INTERMIX_DEVICE static void LoadRowPiece(char* shared, const int8_t* row, int left,
                                           bool aligned) {
    if (left <= 0 || (left >= 16 && aligned)) {
      cp_async_16(shared, row, left > 0);
      return;
    }
#pragma unroll 1
    for (int i = 0; i < 16; ++i) shared[i] = i < left ? static_cast<char>(row[i]) : '\0';
  }

  // Slot s of a stage holds the scales of the s-th group that the stage touches.
  INTERMIX_DEVICE void LoadScales(char* stage, int stage_index) const {
    if (Thread() >= G::kBlockTiles * kScalePieces) return;
    const int32_t group = groups_.Of(stage_index * kStageSteps);
    CopyWeight(stage + G::kScalesAt + Thread() * 16,
               scales_ + static_cast<int64_t>(group) * (16 * G::kScaleBytes),
               group < scale_groups_left_);
  }

  const char* codes_ = nullptr;  // of stage 0, as all that follows
  const char* scales_ = nullptr;
  const int8_t* rows_ = nullptr;
  int32_t tiles_left_ = 0;  // feature tiles that exist, from this thread's first
  int32_t rows_left_ = 0;
  int32_t scale_groups_left_ = 0;
  GroupIndex groups_ = {};
};

}  // namespace intermix::cuda
