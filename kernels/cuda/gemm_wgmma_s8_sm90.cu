// Per k32 step a warp unpacks 2 fragments with 28 integer instructions, each weight once in the
// block; the tensor core of its quarter of the SM then has 256 clocks of work for its two warps.
// One group of wgmma stays in flight while the next step is unpacked, also over the barrier between
// two stages, so a stage's memory is used again two stages later.
//
// Where groups are promoted, their sums must come to rest first. So a whole group is multiplied at
// once, from weights that were unpacked while the one before was multiplied.
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

// As MultiplyStage where nothing is promoted, but that the last step's wgmma is still in flight on
// return, and that sums begin with what is multiplied first, not with zeros.
//   starts  the stage's first step is the first of the tile's
template <class G, int kGroupSteps>
INTERMIX_DEVICE void MultiplyStageAsync(const char* stage, const ThreadPlace<G>& place, bool starts,
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
      wgmma_m64n128k32_s8(acc.sum[i], weights.a[step % 2][i], rows, step > 0 || !starts);
    }
    wgmma_commit();
    if ((step + 1) % G::kUnitSteps == 0 && step + 1 < kStageSteps) {
      units.Load(stage, place, (step + 1) / G::kUnitSteps);
    }
    wgmma_wait<1>();
  }
}

template <class G>
INTERMIX_DEVICE void ComputeStageAsync(const char* stage, const ThreadPlace<G>& place,
                                       const GroupIndex& groups, bool starts,
                                       WeightFragments<G>& weights, Accumulators<G>& acc) {
  if (G::kScaleBytes > 0 && groups.shift == 0) {
    MultiplyStageAsync<G, 1>(stage, place, starts, weights, acc);
  } else if (G::kScaleBytes > 0 && groups.shift == 1) {
    MultiplyStageAsync<G, 2>(stage, place, starts, weights, acc);
  } else {
    MultiplyStageAsync<G, kStageSteps>(stage, place, starts, weights, acc);
  }
}

// Unpacked weights of a whole stage.
template <class G>
struct StageFragments {
  static_assert(G::kFeatureTiles == 1 && !G::kFolds);
  uint32_t a[kStageSteps][4];

  INTERMIX_DEVICE void Load(const char* stage, const ThreadPlace<G>& place) {
    const Fold none[2] = {};
#pragma unroll
    for (int unit = 0; unit < G::kTileUnits; ++unit) {
      CodeUnits<G> units;
      units.Load(stage, place, unit);
#pragma unroll
      for (int s = 0; s < G::kUnitSteps; ++s) {
        UnpackCodes<G>(units.of_tile[0], s, none, a[unit * G::kUnitSteps + s]);
      }
    }
  }
};

// As MultiplyStage where groups are promoted.
//   starts     the stage's first step is the first of a group
//   meanwhile  is called while the stage's last group is multiplied
template <class G, int kGroupSteps, class Meanwhile>
INTERMIX_DEVICE void MultiplyGroups(const char* stage, const ThreadPlace<G>& place, bool starts,
                                    bool promote, int32_t num_groups, StageFragments<G>& weights,
                                    const Meanwhile& meanwhile, Accumulators<G>& acc) {
#pragma unroll
  for (int first = 0; first < kStageSteps; first += kGroupSteps) {
    wgmma_fence();
#pragma unroll
    for (int step = first; step < first + kGroupSteps; ++step) {
      const bool add = step > first || (kGroupSteps == kStageSteps && !starts);
      wgmma_m64n128k32_s8(acc.partial[0], weights.a[step], stage + G::kRowsAt + step * kStepK, add);
    }
    wgmma_commit();
    if (first + kGroupSteps == kStageSteps) meanwhile();
    Settle(acc);
#pragma unroll
    for (int step = first; step < first + kGroupSteps; ++step) wgmma_settle(weights.a[step]);
    if (kGroupSteps == kStageSteps && !promote) continue;
    // Beyond K there is nothing to add: a float sum of -0 would even change.
    if (first / kGroupSteps < num_groups) Promote<G>(stage, place, first / kGroupSteps, acc);
  }
}

template <class G, class Meanwhile>
INTERMIX_DEVICE void ComputeGroups(const char* stage, const ThreadPlace<G>& place,
                                   const GroupIndex& groups, int stage_index, bool last,
                                   StageFragments<G>& weights, const Meanwhile& meanwhile,
                                   Accumulators<G>& acc) {
  const int32_t step = stage_index * kStageSteps;
  const int32_t num_groups = groups.count - groups.Of(step);
  const auto multiply = [&]<int kGroupSteps>(bool starts, bool promote) {
    MultiplyGroups<G, kGroupSteps>(stage, place, starts, promote, num_groups, weights, meanwhile,
                                   acc);
  };
  if (groups.shift == 0) return multiply.template operator()<1>(true, true);
  if (groups.shift == 1) return multiply.template operator()<2>(true, true);
  const auto group_begins = [&](int32_t at) { return groups.Of(at) != groups.Of(at - 1); };
  multiply.template operator()<kStageSteps>(stage_index == 0 || group_begins(step),
                                            last || group_begins(step + kStageSteps));
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

// The warpgroups that load: one stage each time the others begin with one.
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

// A tile, by the two warpgroups that compute.
template <class G>
INTERMIX_DEVICE void ComputeTile(const GemmArgs& args, const ThreadPlace<G>& place,
                                 const GroupIndex& groups, StageRing<G>& ring,
                                 Accumulators<G>& acc) {
  const auto next_stage = [&ring] {
    sync_roles();
    const char* stage = ring.stage();
    ring.Next();
    return stage;
  };
  const int32_t num_stages = NumStages<G>(args);
  if constexpr (!G::kPromotes) {
    WeightFragments<G> weights;
#pragma unroll 1
    for (int32_t index = 0; index < num_stages; ++index) {
      ComputeStageAsync<G>(next_stage(), place, groups, index == 0, weights, acc);
    }
    Settle(acc);
  } else {
    acc.Clear();
    StageFragments<G> weights;
    StageFragments<G> next;
    const char* stage = next_stage();
    weights.Load(stage, place);
#pragma unroll 1
    for (int32_t index = 0; index < num_stages; ++index) {
      const bool last = index + 1 == num_stages;
      const char* following = stage;
      const auto meanwhile = [&] {
        if (last) return;
        following = next_stage();
        next.Load(following, place);
      };
      ComputeGroups<G>(stage, place, groups, index, last, weights, meanwhile, acc);
      stage = following;
      weights = next;
    }
  }
}

template <class G>
INTERMIX_DEVICE void ComputeTiles(const GemmArgs& args, const BlockShare<G>& share,
                                  StageRing<G> ring) {
  const ThreadPlace<G> place(static_cast<int32_t>(threadIdx.x));
  TileFinder<G> finder;
  Accumulators<G> acc;
  int32_t tile = share.walk.tile;
#pragma unroll 1
  for (int32_t left = share.units; left > 0; left -= NumStages<G>(args)) {
    const GroupIndex groups(args.experts[finder.Find(args, tile).expert]);
    ComputeTile<G>(args, place, groups, ring, acc);
    StoreTile<G>(args, place, finder.Find(args, tile), acc);
    tile += static_cast<int32_t>(gridDim.x);
  }
}

template <class G>
__global__ void __launch_bounds__(G::kThreads, 1)
    WgmmaGemmKernel(const GemmArgs args, int32_t stages_at) {
  // The block begins with 128 for each thread. What it takes must be there, or it waits for ever.
  constexpr int kLoadRegisters = 48;
  constexpr int kComputeRegisters = 208;
  static_assert(G::kLoadThreads * kLoadRegisters + G::kFirstLoadThread * kComputeRegisters <=
                G::kThreads * 128);
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
