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
  kDecode,  // blocks take whole tiles; their warps split K, each with a pipeline of its own
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
  int warps_k;        // warps along in-features: kDecode alone
  int stages4;        // pipeline stages, 4-bit codes
  int stages8;        // pipeline stages, 8-bit codes
  int blocks_per_sm;  // what registers are limited for
  bool sums_only;     // compiled for integer modes without partial sums
  bool promotes;      // compiled for integer modes with them
  bool floats;        // compiled for modes that sum in float

  // Of kDecode: a tile with no more than half of its tokens leaves the other half out.
  constexpr bool halves() const { return family == GemmFamily::kDecode && token_tiles == 2; }
  constexpr int features() const { return 16 * feature_tiles * warps_n; }
  constexpr int tokens() const { return 8 * token_tiles * warps_m; }
  // Of a block: kWgmma has two warpgroups besides that only load. One would not keep up: the copies
  // of a thread wait for each other's registers.
  constexpr int load_threads() const {
    return family == GemmFamily::kWgmma ? 256 : 32 * warps_n * warps_m;
  }
  constexpr int threads() const {
    return 32 * warps_n * warps_m * warps_k + (family == GemmFamily::kWgmma ? load_threads() : 0);
  }
  constexpr int stages(int bits) const { return bits == 4 ? stages4 : stages8; }
  constexpr bool Runs(GemmMode mode) const {
    return SumsInFloat(mode) ? floats : Promotes(mode) ? promotes : sums_only;
  }

  // Shared memory of one stage (kDecode: of one warp): codes, rows of activations, scales of at
  // most 4 groups.
  constexpr int CodeBytes(GemmMode mode) const { return features() * kStageK * CodeBits(mode) / 8; }
  constexpr int RowBytes() const { return tokens() * kStageK; }
  constexpr int StageBytes(GemmMode mode) const {
    const int bytes = CodeBytes(mode) + RowBytes() + features() * kStageSteps * ScaleBytes(mode);
    return (bytes + stage_alignment() - 1) / stage_alignment() * stage_alignment();
  }
  // All stages and, of kDecode, every warp's sums.
  constexpr int PipelineBytes(GemmMode mode) const {
    const int sums = family == GemmFamily::kDecode ? warps_k * features() * tokens() * 4 : 0;
    return warps_k * stages(CodeBits(mode)) * StageBytes(mode) + sums;
  }
  // Of stages and of the rows in them.
  constexpr int stage_alignment() const { return family == GemmFamily::kWgmma ? 1024 : 128; }
};

inline constexpr std::array<GemmTile, 16> kGemmTiles = {{
    {GemmFamily::kSmallM, 2, 1, 4, 1, 1, 5, 4, 4, false, false, true},  // 128 x 8
    {GemmFamily::kSmallM, 2, 2, 4, 1, 1, 5, 4, 4, false, false, true},  // 128 x 16
    {GemmFamily::kSmallM, 2, 4, 4, 1, 1, 4, 4, 3, false, true, true},   // 128 x 32
    {GemmFamily::kSmallM, 2, 8, 4, 1, 1, 4, 4, 2, true, true, true},    // 128 x 64
    {GemmFamily::kLargeM, 4, 8, 4, 2, 1, 4, 3, 1, true, false, false},  // 256 x 128
    {GemmFamily::kLargeM, 2, 8, 4, 2, 1, 4, 4, 1, true, true, true},    // 128 x 128
    {GemmFamily::kWgmma, 2, 16, 8, 1, 1, 6, 4, 1, true, false, false},  // 256 x 128
    {GemmFamily::kWgmma, 1, 16, 8, 1, 1, 6, 5, 1, true, true, true},    // 128 x 128
    {GemmFamily::kDecode, 2, 1, 1, 1, 8, 3, 2, 2, true, true, false},   // 32 x 8
    {GemmFamily::kDecode, 4, 2, 1, 1, 4, 3, 2, 2, true, true, false},   // 64 x 16
    {GemmFamily::kDecode, 1, 2, 1, 1, 8, 4, 3, 2, true, true, false},   // 16 x 16
    {GemmFamily::kDecode, 4, 4, 1, 1, 4, 2, 2, 2, true, false, false},  // 64 x 32
    {GemmFamily::kDecode, 2, 4, 1, 1, 4, 3, 2, 2, true, true, false},   // 32 x 32
    {GemmFamily::kDecode, 1, 1, 1, 1, 8, 5, 3, 2, true, true, false},   // 16 x 8
    {GemmFamily::kDecode, 2, 1, 1, 1, 2, 4, 2, 8, true, true, false},   // 32 x 8, small blocks
    {GemmFamily::kDecode, 4, 2, 1, 1, 4, 2, 2, 3, true, false, false},  // 64 x 16, three to an SM
}};

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

// Shared memory before the stages: a flag, then one number per expert and one more, then, of
// kDecode, the experts.
constexpr int32_t GemmExpertsAt(int32_t num_experts) {
  return (128 + (num_experts + 1) * 4 + 15) / 16 * 16;
}
constexpr int32_t GemmHeaderBytes(const GemmTile& tile, int32_t num_experts) {
  int32_t bytes = GemmExpertsAt(num_experts);
  if (tile.family == GemmFamily::kDecode) {
    bytes += num_experts * static_cast<int32_t>(sizeof(GemmExpert));
  }
  const int32_t alignment = tile.stage_alignment();
  return (bytes + alignment - 1) / alignment * alignment;
}

enum class GemmOutput : uint8_t {
  kF32,
  kBF16,
  kI32,
  kSiluMul,  // bfloat16(silu(gate) * up): out feature 2i is a gate, 2i + 1 its up; not of kWgmma
};

// y = x . w^T for every expert's rows. All pointers are device memory.
struct GemmArgs {
  const int8_t* x = nullptr;            // [rows, K]
  int64_t x_stride = 0;                 // between rows; 16-byte aligned rows are the fast path
  const float* x_scales = nullptr;      // [rows]; not read for int32
  const GemmExpert* experts = nullptr;  // [num_experts]; those of another mode are passed over
  GemmExpert only;  // experts[0] by value, where it is the only one: nobody waits to read it
  const int32_t* row_offsets = nullptr;  // [num_experts + 1]; null: all rows go to the only expert
  bool offsets_are_old = false;  // nothing that may still run writes them: read before the wait
  int32_t num_experts = 1;
  int32_t rows = 0;  // of x: the bound that grids are sized from
  int32_t n = 0;
  int32_t k = 0;
  void* y = nullptr;     // [rows, n], or [rows, n / 2] under kSiluMul
  int64_t y_stride = 0;  // in elements
  GemmOutput output = GemmOutput::kF32;
  int32_t* workspace = nullptr;  // GemmWorkspaceBytes, zero before and after
};

// The workspace begins with one counter per block; a slot of partial sums per block follows.
inline constexpr int kGemmMaxBlocks = 2048;

}  // namespace intermix::cuda
