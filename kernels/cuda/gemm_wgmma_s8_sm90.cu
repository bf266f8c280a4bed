// Per k32 step a warp unpacks 2 fragments with 28 integer instructions, each weight once in the
// block; the tensor core of its quarter of the SM then has 256 clocks of work for its two warps.
// One group of wgmma stays in flight while the next step is unpacked, also over the barrier between
// two stages, so a stage's memory is used again two stages later.
#include "kernels/cuda/gemm_compute_sm80.h"
#include "kernels/cuda/gemm_epilogue_sm80.h"
#include "kernels/cuda/gemm_kernel_sm80.h"
#include "kernels/cuda/gemm_load_sm80.h"
#include "kernels/cuda/gemm_schedule_sm80.h"
#include "kernels/cuda/gemm_wgmma_s8_sm90.h"
#include "kernels/cuda/launch.h"

namespace intermix::cuda {
namespace {

constexpr char kName[] = "gemm_wgmma_s8_sm90";

// The sums are at rest: no wgmma of this warp is in flight.
template <class G>
INTERMIX_DEVICE void Settle(Accumulators<G>& acc) {
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < G::kFeatureTiles; ++i) {
    if constexpr (G::kPromotes) {
      wgmma_settle(acc.partial[i]);
    } else {
      wgmma_settle(acc.sum[i]);
    }
  }
}

// What a warp holds of the stage's codes: of one unit.
template <class G>
struct CodeUnits {
  uint4 of_tile[G::kFeatureTiles];

  INTERMIX_DEVICE void Load(const char* stage, const ThreadPlace<G>& place, int unit) {
    const char* codes = stage + place.lane * 16 + unit * kUnitBytes +
                        place.warp_n * G::kFeatureTiles * G::kTileUnits * kUnitBytes;
#pragma unroll
    for (int i = 0; i < G::kFeatureTiles; ++i) {
      of_tile[i] = *reinterpret_cast<const uint4*>(codes + i * G::kTileUnits * kUnitBytes);
    }
  }
};

// Unpacked weights of two steps: while one is multiplied the next is written.
template <class G>
struct WeightFragments {
  uint32_t a[2][G::kFeatureTiles][4];
};

// As MultiplyStage, but that the last step's wgmma is still in flight on return, and that sums
// begin with what is multiplied first, not with zeros.
//   starts  the stage's first step is the first of its sums: of the tile's or, where there are
//           partial sums, of a group's
template <class G, int kGroupSteps>
INTERMIX_DEVICE void MultiplyStageAsync(const char* stage, const ThreadPlace<G>& place, bool starts,
                                        bool promote, int32_t num_groups,
                                        WeightFragments<G>& weights, Accumulators<G>& acc) {
  CodeUnits<G> units;
  Fold folds[G::kFeatureTiles][2];
  units.Load(stage, place, 0);
#pragma unroll
  for (int step = 0; step < kStageSteps; ++step) {
    if (G::kFolds && step % kGroupSteps == 0) {
      LoadFolds<G>(stage, place, step / kGroupSteps, folds);
    }
#pragma unroll
    for (int i = 0; i < G::kFeatureTiles; ++i) {
      UnpackCodes<G>(units.of_tile[i], step % G::kUnitSteps, folds[i], weights.a[step % 2][i]);
    }
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < G::kFeatureTiles; ++i) {
      const char* rows = stage + G::kRowsAt + step * kStepK;
      const bool new_group = G::kPromotes && kGroupSteps < kStageSteps && step % kGroupSteps == 0;
      const bool add = step == 0 ? !starts : !new_group;
      if constexpr (G::kPromotes) {
        wgmma_m64n128k32_s8(acc.partial[i], weights.a[step % 2][i], rows, add);
      } else {
        wgmma_m64n128k32_s8(acc.sum[i], weights.a[step % 2][i], rows, add);
      }
    }
    wgmma_commit();
    if ((step + 1) % G::kUnitSteps == 0 && step + 1 < kStageSteps) {
      units.Load(stage, place, (step + 1) / G::kUnitSteps);
    }
    wgmma_wait<1>();
    if constexpr (G::kPromotes) {
      if ((step + 1) % kGroupSteps == 0 && (kGroupSteps < kStageSteps || promote)) {
        Settle(acc);
        // Beyond K there is nothing to add: a float sum of -0 would even change.
        if (step / kGroupSteps < num_groups) Promote<G>(stage, place, step / kGroupSteps, acc);
      }
    }
  }
}

template <class G>
INTERMIX_DEVICE void ComputeStageAsync(const char* stage, const ThreadPlace<G>& place,
                                       const GroupIndex& groups, int stage_index, bool last,
                                       WeightFragments<G>& weights, Accumulators<G>& acc) {
  const int32_t step = stage_index * kStageSteps;
  const int32_t num_groups = groups.count - groups.Of(step);
  const auto group_begins = [&](int32_t at) { return groups.Of(at) != groups.Of(at - 1); };
  const bool starts = stage_index == 0 || (G::kPromotes && group_begins(step));
  if (G::kScaleBytes > 0 && groups.shift == 0) {
    MultiplyStageAsync<G, 1>(stage, place, starts, true, num_groups, weights, acc);
  } else if (G::kScaleBytes > 0 && groups.shift == 1) {
    MultiplyStageAsync<G, 2>(stage, place, starts, true, num_groups, weights, acc);
  } else {
    const bool promote = last || group_begins(step + kStageSteps);
    MultiplyStageAsync<G, kStageSteps>(stage, place, starts, promote, num_groups, weights, acc);
  }
}

// The ring of stages as seen by those who load it and those who compute.
template <class G>
struct StageRing {
  static constexpr int kBytes = G::kStages * G::kStageBytes;
  // A stage is loaded again while the one after it is computed and its own wgmma may just end.
  static constexpr int kAhead = G::kStages - 2;

  char* first;
  int at = 0;

  INTERMIX_DEVICE char* stage() const { return first + at; }
  INTERMIX_DEVICE void Next() { at = at + G::kStageBytes < kBytes ? at + G::kStageBytes : 0; }
};

// The warpgroup that loads: one stage each time the others begin with one.
template <class G>
INTERMIX_DEVICE void LoadStages(const GemmArgs& args, const BlockShare<G>& share,
                                StageRing<G> ring) {
  constexpr int kAhead = StageRing<G>::kAhead;
  StageLoader<G> loader{.walk = share.walk};
#pragma unroll 1
  for (int32_t unit = 0; unit < share.units + kAhead; ++unit) {
    if (unit >= kAhead) {
      cp_async_wait<kAhead - 1>();
      fence_async_proxy();
      sync_roles();
    }
    const bool new_tile = unit == 0 || loader.walk.stage == 0;
    loader.Load(ring.stage(), args, new_tile, unit < share.units);
    ring.Next();
  }
  cp_async_wait<0>();
}

// The two warpgroups that compute.
template <class G>
INTERMIX_DEVICE void ComputeTiles(const GemmArgs& args, const BlockShare<G>& share,
                                  StageRing<G> ring) {
  const ThreadPlace<G> place(static_cast<int32_t>(threadIdx.x));
  UnitWalk<G> walk = share.walk;
  TileFinder<G> finder;
  GroupIndex groups(args.experts[finder.Find(args, walk.tile).expert]);
  WeightFragments<G> weights;
  Accumulators<G> acc;
  if constexpr (G::kPromotes) acc.Clear();
#pragma unroll 1
  for (int32_t left = share.units; left > 0; --left) {
    sync_roles();
    const bool last = walk.at_last_stage(args);
    ComputeStageAsync<G>(ring.stage(), place, groups, walk.stage, last, weights, acc);
    ring.Next();
    if (last) {
      Settle(acc);
      StoreTile<G>(args, place, finder.Find(args, walk.tile), acc);
      if (left == 1) break;
      if constexpr (G::kPromotes) acc.Clear();
    }
    walk.Next(args);
    if (last) groups = GroupIndex(args.experts[finder.Find(args, walk.tile).expert]);
  }
}

template <class G>
__global__ void __launch_bounds__(G::kThreads, 1)
    WgmmaGemmKernel(const GemmArgs args, int32_t stages_at) {
  // The block begins with 168 for each thread. What it takes must be there, or it waits for ever.
  constexpr int kLoadRegisters = 56;
  constexpr int kComputeRegisters = 224;
  static_assert(G::kLoadThreads * kLoadRegisters + G::kFirstLoadThread * kComputeRegisters <=
                G::kThreads * 168);
  wait_for_kernels_ahead();
  let_next_kernel_start();
  CountRowTiles<G>(args);
  sync_block();
  const BlockShare<G> share = ShareOf<G>(args, 1);
  if (share.units == 0) return;
  const StageRing<G> ring{.first = shared_memory() + stages_at};
  if (threadIdx.x >= G::kFirstLoadThread) {
    give_up_registers<kLoadRegisters>();
    LoadStages<G>(args, share, ring);
  } else {
    take_registers<kComputeRegisters>();
    ComputeTiles<G>(args, share, ring);
  }
}

template <int kTileIndex, GemmMode kMode>
void LaunchWgmmaTile(const GemmArgs& args, const GemmPlan& plan, cudaStream_t stream) {
  static_assert(kGemmTiles[kTileIndex].Runs(kMode));
  using G = Geometry<kTileIndex, kMode>;
  static_assert(G::kTokens == 128 && G::kWarpsN == 8);  // two warpgroups side by side
  const int32_t stages_at = GemmHeaderBytes(kGemmTiles[kTileIndex], args.num_experts);
  Launch(kName, WgmmaGemmKernel<G>,
         {.grid = dim3(static_cast<unsigned>(plan.blocks)),
          .block = dim3(G::kThreads),
          .shared_bytes = static_cast<size_t>(stages_at + G::kStages * G::kStageBytes),
          .stream = stream,
          .early = true},
         args, stages_at);
}

template <GemmMode kMode>
void LaunchMode(const GemmArgs& args, const GemmPlan& plan, cudaStream_t stream) {
  if constexpr (!Promotes(kMode)) {  // partial sums would not fit beside this tile's
    if (plan.tile == 6) return LaunchWgmmaTile<6, kMode>(args, plan, stream);
  }
  CHECK_EQ(plan.tile, 7) << "not a tile of this family for the mode";
  LaunchWgmmaTile<7, kMode>(args, plan, stream);
}

}  // namespace

void LaunchGemmWgmma(const GemmArgs& args, GemmMode mode, const GemmPlan& plan,
                     cudaStream_t stream) {
  WithMode(mode, [&]<GemmMode kMode>() { LaunchMode<kMode>(args, plan, stream); });
}

}  // namespace intermix::cuda
