// What the host and the kernels of the quantised GEMM share: modes, tiles, descriptors, arguments.
// Plain data; no CUDA header, so gemm_select and its tests build anywhere.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace intermix::cuda {

// Which inner loop a packed weight runs through. Codes have 4 or 8 bits; `sum` is over all of K.
enum class GemmMode : uint8_t {
  kFolded4,  // q * I made in the fragment; sum, times a multiplier where all of K is one wide group
  kWide4,    // sum of I[j] * partial[j], promoted once per group
  kFloat4,   // sum = fma(float(partial[j]), s[j], sum), j ascending
  kPlain8,   // one group: sum, times the multiplier
  kWide8,
  kFloat8,
};
inline constexpr int kNumGemmModes = 6;

constexpr int CodeBits(GemmMode mode) { return mode < GemmMode::kPlain8 ? 4 : 8; }
// Per-group partial sums beside the sums: twice the registers.
constexpr bool Promotes(GemmMode mode) {
  return mode != GemmMode::kFolded4 && mode != GemmMode::kPlain8;
}
// A float sum has one order, so its K is never split.
constexpr bool SumsInFloat(GemmMode mode) {
  return mode == GemmMode::kFloat4 || mode == GemmMode::kFloat8;
}
// Bytes of one group scale as the kernels read it.
constexpr int ScaleBytes(GemmMode mode) {
  if (mode == GemmMode::kPlain8) return 0;
  return SumsInFloat(mode) ? 4 : Promotes(mode) ? 2 : 1;
}

inline constexpr int kStepK = 32;      // in-features of one mma
inline constexpr int kStageSteps = 4;  // steps of one pipeline stage
inline constexpr int kStageK = kStepK * kStageSteps;
inline constexpr int kUnitBytes = 512;  // one 16-byte fragment load of a warp: 16 features of codes

// Steps of K in one unit: 64 in-features of 4 bits or 32 of 8 bits.
constexpr int UnitSteps(int bits) { return 8 / bits; }

enum class GemmFamily : uint8_t {
  kSmallM,  // blocks take equal shares of all (tile, stage) units; K splits where shares end
  kLargeM,  // blocks take whole tiles
  kWgmma,   // the same on wgmma: sm_90a alone
};

// What one block computes, and how: kernels are instantiated from the rows of kGemmTiles.
struct GemmTile {
  GemmFamily family;
  int feature_tiles;  // of 16 out features, per warp (mma M)
  int token_tiles;    // of 8 tokens, per warp (mma N)
  int warps_n;        // warps along out features
  int warps_m;        // warps along tokens
  int stages4;        // pipeline stages, 4-bit codes
  int stages8;        // pipeline stages, 8-bit codes
  int blocks_per_sm;  // what registers are limited for
  bool promotes;      // compiled for modes with partial sums
  bool sums_only;     // compiled for modes without them

  constexpr int features() const { return 16 * feature_tiles * warps_n; }
  constexpr int tokens() const { return 8 * token_tiles * warps_m; }
  // Of a block: kWgmma has a warpgroup besides that only loads.
  constexpr int load_threads() const {
    return family == GemmFamily::kWgmma ? 128 : 32 * warps_n * warps_m;
  }
  constexpr int threads() const {
    return 32 * warps_n * warps_m + (family == GemmFamily::kWgmma ? load_threads() : 0);
  }
  constexpr int stages(int bits) const { return bits == 4 ? stages4 : stages8; }
  constexpr bool Runs(GemmMode mode) const { return Promotes(mode) ? promotes : sums_only; }

  // Shared memory of one stage: codes, rows of activations, scales of at most 4 groups.
  constexpr int CodeBytes(GemmMode mode) const { return features() * kStageK * CodeBits(mode) / 8; }
  constexpr int RowBytes() const { return tokens() * kStageK; }
  constexpr int StageBytes(GemmMode mode) const {
    const int bytes = CodeBytes(mode) + RowBytes() + features() * kStageSteps * ScaleBytes(mode);
    return (bytes + stage_alignment() - 1) / stage_alignment() * stage_alignment();
  }
  // Of stages and of the rows in them.
  constexpr int stage_alignment() const { return family == GemmFamily::kWgmma ? 1024 : 128; }
};

inline constexpr std::array<GemmTile, 8> kGemmTiles = {{
    {GemmFamily::kSmallM, 2, 1, 4, 1, 5, 4, 4, true, true},   // 128 x 8
    {GemmFamily::kSmallM, 2, 2, 4, 1, 5, 4, 4, true, true},   // 128 x 16
    {GemmFamily::kSmallM, 2, 4, 4, 1, 4, 4, 3, true, true},   // 128 x 32
    {GemmFamily::kSmallM, 2, 8, 4, 1, 4, 4, 2, true, true},   // 128 x 64
    {GemmFamily::kLargeM, 4, 8, 4, 2, 4, 3, 1, false, true},  // 256 x 128
    {GemmFamily::kLargeM, 2, 8, 4, 2, 4, 4, 1, true, true},   // 128 x 128
    {GemmFamily::kWgmma, 2, 16, 8, 1, 6, 4, 1, false, true},  // 256 x 128
    {GemmFamily::kWgmma, 1, 16, 8, 1, 6, 5, 1, true, true},   // 128 x 128
}};

// Shared memory before the stages: a flag, then one number per expert and one more.
constexpr int32_t GemmHeaderBytes(const GemmTile& tile, int32_t num_experts) {
  const int32_t alignment = tile.stage_alignment();
  return (128 + (num_experts + 1) * 4 + alignment - 1) / alignment * alignment;
}

// One expert's weight part in device memory (gemm_pack.h says how the arrays lie).
struct GemmExpert {
  const void* codes = nullptr;
  const void* scales = nullptr;           // none under kPlain8
  const int16_t* multipliers = nullptr;   // [padded N]; null: 1
  const float* channel_scales = nullptr;  // [padded N]; null under the float modes
  int32_t num_groups = 1;
  int32_t group_shift = 31;  // log2 of the steps of K in a group; 31 where there is one group
  GemmMode mode = GemmMode::kFolded4;
};

enum class GemmOutput : uint8_t { kF32, kBF16, kI32 };

// y = x . w^T for every expert's rows. All pointers are device memory.
struct GemmArgs {
  const int8_t* x = nullptr;             // [rows, K]
  int64_t x_stride = 0;                  // between rows; 16-byte aligned rows are the fast path
  const float* x_scales = nullptr;       // [rows]; not read for int32
  const GemmExpert* experts = nullptr;   // [num_experts]; those of another mode are passed over
  const int32_t* row_offsets = nullptr;  // [num_experts + 1]; null: all rows go to the only expert
  int32_t num_experts = 1;
  int32_t rows = 0;  // of x: the bound that grids are sized from
  int32_t n = 0;
  int32_t k = 0;
  void* y = nullptr;     // [rows, n]
  int64_t y_stride = 0;  // in elements
  GemmOutput output = GemmOutput::kF32;
  int32_t* workspace = nullptr;  // GemmWorkspaceBytes, zero before and after
};

// The workspace begins with one counter per block; a slot of partial sums per block follows.
inline constexpr int kGemmMaxBlocks = 2048;

}  // namespace intermix::cuda
