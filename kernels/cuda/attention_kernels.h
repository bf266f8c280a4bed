// The families of attention kernels behind PagedAttention: one row has the same bits in each.
#pragma once

#include "kernels/cuda/attention_types.h"

namespace intermix::cuda {

// Rows of a tile, and blocks that a multiprocessor has at once.
inline constexpr int kPromptRows = kWarps * kWarpRows;
inline constexpr int kPromptBlocks = 1;
inline constexpr int kDecodeRows = kWarpRows;
inline constexpr int kDecodeBlocks = 2;

inline constexpr int kMaxPromptHeadDim = 128;  // what registers hold

struct AttentionGrid {
  int64_t tiles;   // slots of find_tile times groups of heads
  int64_t shares;  // blocks that share the splits of a tile; more than 1 needs launch.p.partials
};

// Many rows of a sequence.
void LaunchAttentionPrompt(const AttentionLaunch& launch, const AttentionGrid& grid,
                           cudaStream_t stream);
// Few rows of a sequence.
void LaunchAttentionDecode(const AttentionLaunch& launch, const AttentionGrid& grid,
                           cudaStream_t stream);

}  // namespace intermix::cuda
