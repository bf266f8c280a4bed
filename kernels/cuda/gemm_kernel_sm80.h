// The GEMM kernel itself: a pipeline of cp.async stages that never drains between a block's tiles.
// Device code and the launcher that the families share.
#pragma once

#include "kernels/cuda/gemm_compute_sm80.h"
#include "kernels/cuda/gemm_epilogue_sm80.h"
#include "kernels/cuda/gemm_gated_sm80.h"
#include "kernels/cuda/gemm_load_sm80.h"
#include "kernels/cuda/gemm_schedule_sm80.h"
#include "kernels/cuda/gemm_select.h"
#include "kernels/cuda/launch.h"

namespace intermix::cuda {

// The loading end of the pipeline: kStages - 1 units ahead of the computing end.
template <class G>
struct StageLoader {
  UnitWalk<G> walk;
  TileFinder<G> finder = {};
  TileLoader<G> loader = {};

  // Every thread commits, also where there is nothing left to load: waits count groups.
  INTERMIX_DEVICE void Load(char* stage, const GemmArgs& args, bool new_tile, bool any_left) {
    if (any_left) {
      if (new_tile) {
        const TilePlace tile = finder.Find(args, walk.tile);
        loader = TileLoader<G>(args, args.experts[tile.expert], tile, walk.stage);
      }
      loader.Load(stage, args, walk.stage);
      walk.Next(args);
    }
    cp_async_commit();
  }
};

//   min_units  kSmallM: what a block takes at least
//   stages_at  bytes of the shared memory's header
template <class G>
__global__ void __launch_bounds__(G::kThreads, G::kBlocksPerSm)
    GemmKernel(const GemmArgs args, int32_t min_units, int32_t stages_at) {
  constexpr int kAhead = G::kStages - 1;
  wait_for_kernels_ahead();
  let_next_kernel_start();
  CountRowTiles<G>(args);
  sync_block();
  const BlockShare<G> share = ShareOf<G>(args, min_units);
  if (share.units == 0) return;
  char* const stages = shared_memory() + stages_at;
  StageLoader<G> loader{.walk = share.walk};
#pragma unroll 1
  for (int s = 0; s < kAhead; ++s) {
    const bool new_tile = s == 0 || loader.walk.stage == 0;
    loader.Load(stages + s * G::kStageBytes, args, new_tile, s < share.units);
  }

  const ThreadPlace<G> place(static_cast<int32_t>(threadIdx.x));
  UnitWalk<G> walk = share.walk;
  TileFinder<G> finder;
  GroupIndex groups(args.experts[finder.Find(args, walk.tile).expert]);
  [[maybe_unused]] int32_t first_stage = walk.stage;  // of this block's in the tile
  int at = 0;  // of the stage to be computed; the one before it has been used by all
  Accumulators<G> acc;
  acc.Clear();
#pragma unroll 1
  for (int32_t left = share.units; left > 0; --left) {
    cp_async_wait<kAhead - 1>();
    sync_block();
    const int load_at = at == 0 ? kAhead * G::kStageBytes : at - G::kStageBytes;
    loader.Load(stages + load_at, args, loader.walk.stage == 0, left > kAhead);
    const bool last = left == 1 || walk.at_last_stage(args);
    ComputeStage<G>(stages + at, place, groups, walk.stage, last, acc);
    at = at == kAhead * G::kStageBytes ? 0 : at + G::kStageBytes;
    if (last) {
      // Found again rather than kept: registers are scarce while a tile is summed up.
      const ThreadPlace<G> here(opaque(static_cast<int32_t>(threadIdx.x)));
      const TilePlace tile = finder.Find(args, walk.tile);
      bool whole = true;
      if constexpr (G::kFamily == GemmFamily::kSmallM && !G::kFloat) {
        const int32_t done = walk.stage + 1 - first_stage;
        const int32_t num_stages = NumStages<G>(args);
        if (done < num_stages) {  // the slot of the block that the tile's first unit belongs to
          whole = SumOverBlocks<G>(args, here, walk.tile * num_stages / share.chunk, tile.num_rows,
                                   done, num_stages, acc);
        }
      }
      if (whole && args.output == GemmOutput::kSiluMul) {
        StoreGatedTile<G>(args, here, tile, acc);
      } else if (whole) {
        StoreTile<G>(args, here, tile, acc);
      }
      if (left == 1) break;
      acc.Clear();
    }
    walk.Next(args);
    if (last) {
      first_stage = 0;
      groups = GroupIndex(args.experts[finder.Find(args, walk.tile).expert]);
    }
  }
  cp_async_wait<0>();
}

// Calls launch.template operator()<mode>(): from a mode of run time to one of compile time.
template <class LaunchIn>
void WithMode(GemmMode mode, const LaunchIn& launch) {
  switch (mode) {
    case GemmMode::kFolded4:
      return launch.template operator()<GemmMode::kFolded4>();
    case GemmMode::kWide4:
      return launch.template operator()<GemmMode::kWide4>();
    case GemmMode::kFloat4:
      return launch.template operator()<GemmMode::kFloat4>();
    case GemmMode::kPlain8:
      return launch.template operator()<GemmMode::kPlain8>();
    case GemmMode::kWide8:
      return launch.template operator()<GemmMode::kWide8>();
    case GemmMode::kFloat8:
      return launch.template operator()<GemmMode::kFloat8>();
  }
}

// Launches tile kTileIndex in mode kMode.
template <int kTileIndex, GemmMode kMode>
void LaunchTile(const char* name, const GemmArgs& args, const GemmPlan& plan, cudaStream_t stream) {
  static_assert(kGemmTiles[kTileIndex].Runs(kMode));
  using G = Geometry<kTileIndex, kMode>;
  const int32_t stages_at = GemmHeaderBytes(kGemmTiles[kTileIndex], args.num_experts);
  Launch(name, GemmKernel<G>,
         {.grid = dim3(static_cast<unsigned>(plan.blocks)),
          .block = dim3(G::kThreads),
          .shared_bytes = static_cast<size_t>(stages_at + G::kStages * G::kStageBytes),
          .stream = stream,
          .early = true},
         args, plan.min_units, stages_at);
}

}  // namespace intermix::cuda
