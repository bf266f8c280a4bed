// Filling pipeline stages: codes, rows and scales of 128 in-features each, by cp.async of 16-byte
// pieces. What lies outside the weight or the rows is filled with zeros. Device code.
#pragma once

#include "kernels/cuda/gemm_tile_sm80.h"

namespace intermix::cuda {

// Loads the stages of one tile, ascending by G::kWarpsK; this thread's share of the pieces is the
// same in all of them. The threads that load are the block's, some warpgroups of it, or (kDecode)
// each warp for itself. Most stages are whole, and those cost few instructions: others wait.
template <class G>
class TileLoader {
 public:
  // Of the threads that load.
  INTERMIX_DEVICE static int Thread() {
    if (G::kFamily == GemmFamily::kDecode) return static_cast<int>(threadIdx.x) % 32;
    return static_cast<int>(threadIdx.x) - G::kFirstLoadThread;
  }

  TileLoader() = default;
  //   first_stage  of the tile, that is loaded first
  INTERMIX_DEVICE TileLoader(const GemmArgs& args, const GemmExpert& expert, const TilePlace& tile,
                             int32_t first_stage) {
    const int thread = Thread();
    const int32_t first_tile = tile.feature / 16;
    const int32_t num_tiles = (args.n + 15) / 16 - first_tile;
    const int my_tile = thread / kTilePieces;
    codes_ = static_cast<const char*>(expert.codes) +
             static_cast<int64_t>(first_tile + my_tile) * TileBytes(args) +
             thread % kTilePieces * 16 + static_cast<int64_t>(first_stage) * kStageCodes;
    tiles_left_ = num_tiles - my_tile;

    const int token = thread / 8;
    rows_ = args.x + (tile.row + token) * args.x_stride + thread % 8 * 16 +
            static_cast<int64_t>(first_stage) * kStageK;
    rows_left_ = tile.num_rows - token;

    const GroupIndex groups(expert);
    group_shift_ = groups.shift;
    if constexpr (G::kScaleBytes > 0) {
      const int scale_tile = thread / kScalePieces;
      const int slot = thread % kScalePieces / G::kScaleBytes;
      scales_ = static_cast<const char*>(expert.scales) +
                (static_cast<int64_t>(first_tile + scale_tile) * groups.count + slot) *
                    (16 * G::kScaleBytes) +
                thread % G::kScaleBytes * 16;
      const bool touched = slot == 0 || slot << groups.shift < kStageSteps;
      scale_groups_left_ = scale_tile < num_tiles && touched ? groups.count - slot : 0;
    }
    whole_stages_ = num_tiles >= G::kBlockTiles && Aligned(args) ? args.k / kStageK : 0;
    tile_bytes_ = TileBytes(args);
    row_step_ = RowStep(args);
  }

  INTERMIX_DEVICE void Load(char* stage, const GemmArgs& args, int32_t stage_index) {
    LoadWeight(stage, args, stage_index);
    LoadRows(stage, args, stage_index);
  }

  INTERMIX_DEVICE void LoadWeight(char* stage, const GemmArgs& args, int32_t stage_index) {
    char* const shared = stage + Thread() * 16;
    const int64_t tile_bytes = G::kSpareRegisters ? tile_bytes_ : TileBytes(args);
    if (stage_index < whole_stages_) {
#pragma unroll
      for (int i = 0; i < kCodePieces; ++i) {
        CopyWeight(shared + i * kCodeStep, codes_ + TileOf(i) * tile_bytes + UnitOf(i) * kUnitBytes,
                   true);
      }
    } else {
      const int32_t unit = stage_index * G::kTileUnits + Thread() % kTilePieces / 32;
      // The pointer moves on: of a copy to a pointer plus an offset that all threads share, and
      // with a cache hint, nvcc 13.0 makes an illegal instruction.
      char* to = shared;
#pragma unroll 1
      for (int i = 0; i < kCodePieces; ++i, to += kCodeStep) {
        CopyWeight(to, codes_ + TileOf(i) * tile_bytes + UnitOf(i) * kUnitBytes,
                   (unit + UnitOf(i)) * kUnitBytes < tile_bytes && TileOf(i) < tiles_left_);
      }
    }
    SkipWeight();
    if constexpr (G::kScaleBytes > 0) LoadScales(stage, stage_index);
  }
  // Of a stage whose weight somebody else has loaded.
  INTERMIX_DEVICE void SkipWeight() { codes_ += G::kWarpsK * kStageCodes; }

  INTERMIX_DEVICE void LoadRows(char* stage, const GemmArgs& args, int32_t stage_index) {
    const unsigned thread = static_cast<unsigned>(Thread());
    const unsigned token = thread / 8;
    // Tokens that are loaded together begin at a multiple of 8, or of 4: then bit 2 of the piece.
    static_assert(kTokensAtOnce % 8 == 0 || kTokensAtOnce == 4);
    char* const row = stage + G::kRowsAt + token * kStageK;
    const auto shared = [&](unsigned i) {
      const unsigned piece = (thread ^ token ^ i * kTokensAtOnce % 8) % 8;
      return row + piece * 16 + i * kTokensAtOnce * kStageK;
    };
    const int64_t row_step = G::kSpareRegisters ? row_step_ : RowStep(args);
    if (stage_index < whole_stages_) {
#pragma unroll
      for (int i = 0; i < kRowPieces; ++i) {
        if (!HasToken(static_cast<int>(token), i)) break;
        cp_async_16(shared(i), rows_ + i * row_step, i * kTokensAtOnce < rows_left_);
      }
    } else {
      const bool aligned = Aligned(args);
      const int32_t left = args.k - stage_index * kStageK - thread % 8 * 16;  // of K
#pragma unroll 1
      for (int i = 0; i < kRowPieces; ++i) {
        if (!HasToken(token, i)) break;
        LoadRowPiece(shared(i), rows_ + i * row_step, i * kTokensAtOnce < rows_left_ ? left : 0,
                     aligned);
      }
    }
    rows_ += G::kWarpsK * kStageK;
  }

 private:
  static constexpr int kTilePieces = G::kTileUnits * 32;  // codes of one feature tile
  static constexpr int kTilesAtOnce = G::kLoadThreads / kTilePieces;
  static constexpr int kTokensAtOnce = G::kLoadThreads / 8;
  static constexpr int kRowPieces = (G::kTokens + kTokensAtOnce - 1) / kTokensAtOnce;  // a thread's
  static constexpr int kScalePieces = kStageSteps * G::kScaleBytes;  // of one feature tile
  static constexpr int kUnitK = G::kUnitSteps * kStepK;
  static constexpr int kStageCodes = G::kTileUnits * kUnitBytes;  // bytes of one feature tile
  static constexpr bool kByUnit = kTilesAtOnce == 0;              // a warp loads codes unit by unit
  static constexpr int kCodePieces =
      kByUnit ? G::kBlockTiles * G::kTileUnits : G::kBlockTiles * kTilePieces / G::kLoadThreads;
  static_assert(kTilesAtOnce == 0 || G::kBlockTiles % kTilesAtOnce == 0);
  static_assert(G::kBlockTiles * kScalePieces <= G::kLoadThreads);

  // This thread's piece i of a stage's codes: how many feature tiles and units behind its first,
  // and how many bytes of shared memory from one to the next.
  INTERMIX_DEVICE static int TileOf(int i) {
    return kByUnit ? i / G::kTileUnits : i * kTilesAtOnce;
  }
  INTERMIX_DEVICE static int UnitOf(int i) { return kByUnit ? i % G::kTileUnits : 0; }
  static constexpr int kCodeStep = kByUnit ? kUnitBytes : kTilesAtOnce * kStageCodes;

  // Of codes, from one feature tile to the next.
  INTERMIX_DEVICE static int32_t TileBytes(const GemmArgs& args) {
    return static_cast<int32_t>((static_cast<uint32_t>(args.k) + kUnitK - 1) / kUnitK * kUnitBytes);
  }
  // From one of this thread's rows to the next. Of 32 bits: one instruction multiplies and adds.
  INTERMIX_DEVICE static int32_t RowStep(const GemmArgs& args) {
    return static_cast<int32_t>(args.x_stride) * kTokensAtOnce;
  }
  // Every row of x begins at a multiple of 16 bytes.
  INTERMIX_DEVICE static bool Aligned(const GemmArgs& args) {
    return (reinterpret_cast<uintptr_t>(args.x) | args.x_stride) % 16 == 0;
  }
  INTERMIX_DEVICE static bool HasToken(int token, int i) {
    return G::kTokens % kTokensAtOnce == 0 || token + i * kTokensAtOnce < G::kTokens;
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
  INTERMIX_DEVICE void LoadScales(char* stage, int32_t stage_index) const {
    if (Thread() >= G::kBlockTiles * kScalePieces) return;
    const int32_t group = stage_index * kStageSteps >> group_shift_;
    CopyWeight(stage + G::kScalesAt + Thread() * 16,
               scales_ + static_cast<int64_t>(group) * (16 * G::kScaleBytes),
               group < scale_groups_left_);
  }

  const char* codes_ = nullptr;  // of the next stage, as rows_
  const int8_t* rows_ = nullptr;
  const char* scales_ = nullptr;  // of stage 0
  int32_t whole_stages_ = 0;      // of which every piece exists but for missing rows
  int32_t tiles_left_ = 0;        // feature tiles that exist, from this thread's first
  int32_t rows_left_ = 0;
  int32_t scale_groups_left_ = 0;
  int32_t group_shift_ = 0;
  int32_t tile_bytes_ = 0;
  int32_t row_step_ = 0;
};

}  // namespace intermix::cuda
