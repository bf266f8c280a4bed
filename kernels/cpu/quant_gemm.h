// The quantised GEMM kernels of CpuBackend as plain function pointers, and the layouts they read.
// Pure functions on plain memory; thread-safe. Functions here are always inlined because files of
// several instruction sets use them (lanes.h).
//
// Weights. 16 out features form a block; within it 4 consecutive k of each feature are one 32-bit
// word, so 64 bytes hold k .. k + 3 of 16 features ("a quad") as vpdpbusd wants them. K is padded
// group by group to a multiple of 8 (real models need no padding).
//   8 bits  [blocks][padded_k / 4][16 rows][4 k] bytes, code + 128
//   4 bits  [blocks][padded_k / 8][16 rows][4] bytes: code + 8 of k .. k + 3 in the low nibbles, of
//           k + 4 .. k + 7 in the high ones
// Unsigned codes cost a correction of bias * sum(x) for each group; PackRows computes those sums.
//
// Activations. Rows form tiles, of at most panel_rows for run_panel. A tile of r rows holds, for
// each quad, r words of 4 consecutive k: [padded_k / 4][r][4] bytes. Padding is zero, so that what
// a weight holds there does not matter. Kernels may read kTileSlack bytes beyond the last tile.
#pragma once

#include <cstdint>

namespace intermix::cpu {

inline constexpr int kBlockRows = 16;  // out features in a block
inline constexpr int kTileSlack = 32;
inline constexpr int kPanelBlocks = 4;  // blocks that run_panel takes at once
inline constexpr int kPanelQuads = 64;  // quads of K that run_panel unpacks at once, at least
inline constexpr int kPanelGroups = kPanelQuads / 2;  // in as many, at most

// How an accumulator becomes an output.
enum class OutputType : uint8_t { kFloat, kBFloat16, kInt32 };

// One weight part, as packed by PackedPart (packed_weight.h).
struct QuantPart {
  const uint8_t* codes = nullptr;
  const int16_t* int_scales = nullptr;    // [blocks][groups][16], integer schemes
  const float* float_scales = nullptr;    // [blocks][groups][16], Scheme::kFloat
  const float* channel_scales = nullptr;  // [blocks][16], integer schemes
  int64_t n = 0;
  int64_t num_groups = 0;
  int64_t group_quads = 0;  // padded group size / 4; even
  int bits = 4;
  bool folded = false;  // 4 bits, |code * I| <= 127: the product is an int8 weight

  [[gnu::always_inline]] int64_t quads() const { return num_groups * group_quads; }
  [[gnu::always_inline]] int64_t block_bytes() const { return quads() * (bits == 4 ? 32 : 64); }
  [[gnu::always_inline]] int bias() const { return bits == 4 ? 8 : 128; }
};

// Rows of one expert, cut into tiles of nearly equal size: tile t starts at row TileBegin(t).
struct QuantRows {
  const int8_t* tiles = nullptr;  // tile t at tiles + TileBegin(t) * padded_k
  const int32_t* sums = nullptr;  // [rows][groups + 1]: sum of x over each group, then over all
  const float* scales = nullptr;  // [rows]
  int64_t rows = 0;
  int64_t num_tiles = 0;

  [[gnu::always_inline]] int64_t TileBegin(int64_t t) const {
    const int64_t small = rows / num_tiles;
    const int64_t large = rows % num_tiles;  // these many tiles, the first ones, have a row more
    return t * small + (t < large ? t : large);
  }
};

// Where the rows of QuantRows go: element [0, 0] is row 0, out feature 0 of the part.
struct QuantOutput {
  void* y = nullptr;
  int64_t stride = 0;  // elements
  OutputType type = OutputType::kFloat;
};

// Memory of one thread for run_panel.
struct PanelScratch {
  uint8_t* weights = nullptr;  // [kPanelBlocks][max(kPanelQuads, group_quads)][64], 64-byte aligned
  int16_t* scales = nullptr;   // [kPanelBlocks][kPanelGroups][16][2], 64-byte aligned
  int32_t* sums = nullptr;     // [kPanelRows][kPanelBlocks][16], 64-byte aligned
};
inline constexpr int kPanelRows = 252;

// One tile to pack.
struct PackRowsArgs {
  const int8_t* x = nullptr;  // the tile's first row
  int64_t x_stride = 0;
  int rows = 0;
  int64_t group_size = 0;
  int64_t num_groups = 0;
  int64_t group_quads = 0;
  int8_t* tile = nullptr;   // [quads][rows][4]
  int32_t* sums = nullptr;  // [rows][groups + 1]
};

struct QuantGemmKernels {
  int stream_rows = 0;    // tokens in a tile of run_tile, at most
  int panel_rows = 0;     // and in one of run_panel
  int streamed_rows = 0;  // up to so many, run_tile is faster, though each tile unpacks weights
  void (*pack_rows)(const PackRowsArgs& args);
  // Blocks [block_begin, block_end) for one tile; streams the packed weights once.
  void (*run_tile)(const QuantPart& part, const QuantRows& rows, int64_t tile, int64_t block_begin,
                   int64_t block_end, const QuantOutput& out);
  // At most kPanelBlocks blocks for at most kPanelRows rows, in tiles [tile_begin, tile_end).
  void (*run_panel)(const QuantPart& part, const QuantRows& rows, int64_t tile_begin,
                    int64_t tile_end, int64_t block_begin, int64_t block_end,
                    const PanelScratch& scratch, const QuantOutput& out);
};

QuantGemmKernels ScalarQuantGemmKernels();
QuantGemmKernels Avx2QuantGemmKernels();
QuantGemmKernels Avx512QuantGemmKernels();

}  // namespace intermix::cpu
