// The families of attention kernels behind PagedAttention: one row has the same bits in each.
#pragma once

#include "kernels/cuda/attention_types.h"
#include "kernels/cuda/launch.h"

namespace intermix::cuda {

// Rows of a tile, and blocks that a multiprocessor has at once.
inline constexpr int kPromptRows = kWarps * kWarpRows;
inline constexpr int kPromptBlocks = 1;
inline constexpr int kDecodeRows = kWarpRows;
inline constexpr int kDecodeBlocks = 2;

inline constexpr int kMaxPromptHeadDim = 128;  // what registers hold
inline constexpr int kWgmmaHeadDim = 64;       // the least that wgmma kernels are compiled for

struct AttentionGrid {
  int64_t tiles;   // slots of find_tile times groups of heads
  int64_t shares;  // blocks that share the splits of a tile; more than 1 needs launch.p.partials
};

// Many rows of a sequence.
void LaunchAttentionPrompt(const AttentionLaunch& launch, const AttentionGrid& grid,
                           cudaStream_t stream);
// The same on wgmma, for compute capability 9.0 alone.
void LaunchAttentionPromptWgmma(const AttentionLaunch& launch, const AttentionGrid& grid,
                                cudaStream_t stream);
// Few rows of a sequence.
void LaunchAttentionDecode(const AttentionLaunch& launch, const AttentionGrid& grid,
                           cudaStream_t stream);

// Starts a kernel of these: a block for each tile and share, of kThreads.
inline void LaunchTiles(const char* name, void (*kernel)(AttentionLaunch), size_t shared_bytes,
                        const AttentionLaunch& launch, const AttentionGrid& grid,
                        cudaStream_t stream) {
  Launch(name, kernel,
         {.grid = dim3(static_cast<unsigned>(grid.tiles), static_cast<unsigned>(grid.shares)),
          .block = dim3(kThreads),
          .shared_bytes = shared_bytes,
          .stream = stream,
          .early = true},
         launch);
}

// Calls f<kHeadDim, Element>() for what the cache holds: the least head_dim that kernels are
// compiled for, from kLeast up to kLargest. An int8 fragment has too many columns for the smallest.
template <int kLeast, int kLargest, typename F>
void WithAttentionShape(const AttentionParams& p, const F& f) {
  const auto with_dim = [&]<int kHeadDim>() {
    if (p.k_scales != nullptr) return f.template operator()<kHeadDim, int8_t>();
    f.template operator()<kHeadDim, uint16_t>();
  };
  if constexpr (kLeast == 32) {
    if (p.k_scales == nullptr && p.head_dim <= 32) return f.template operator()<32, uint16_t>();
  }
  if (p.head_dim <= 64) return with_dim.template operator()<64>();
  if (kLargest == 128 || p.head_dim <= 128) return with_dim.template operator()<128>();
  if constexpr (kLargest > 128) with_dim.template operator()<kLargest>();
}

}  // namespace intermix::cuda
