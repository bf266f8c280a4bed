// Bound by latency, then by bandwidth. The blocks of an SM have 64 to 128 KB of codes on the way,
// where latency times bandwidth of an H200 asks for 40 KB: blocks that come to an end leave no gap.
// Rows of activations are read again by every tile, from L2: for 4-bit weights, 8 rows and 32
// out features add half to the bytes, 32 and 64 double them. Narrow tiles are for few out features.
#include "kernels/cuda/gemm_compute_sm80.h"
#include "kernels/cuda/gemm_decode_s8_sm80.h"
#include "kernels/cuda/gemm_epilogue_sm80.h"
#include "kernels/cuda/gemm_gated_sm80.h"
#include "kernels/cuda/gemm_kernel_sm80.h"
#include "kernels/cuda/gemm_load_sm80.h"
#include "kernels/cuda/gemm_schedule_sm80.h"
#include "kernels/cuda/launch.h"

namespace intermix::cuda {
namespace {

// Bytes of shared memory before the experts, and before the stages.
struct Layout {
  int32_t experts_at;
  int32_t stages_at;

  INTERMIX_DEVICE GemmExpert* experts() const {
    return reinterpret_cast<GemmExpert*>(shared_memory() + experts_at);
  }
};

// By all threads, before any kernel ahead has ended.
INTERMIX_DEVICE void ReadExperts(const GemmArgs& args, GemmExpert* experts) {
  constexpr int kPieces = sizeof(GemmExpert) / 16;
  static_assert(sizeof(GemmExpert) % 16 == 0);
  if (args.num_experts == 1) {
    if (threadIdx.x == 0) experts[0] = args.only;
    return;
  }
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < static_cast<unsigned>(args.num_experts * kPieces);
       i += blockDim.x) {
    reinterpret_cast<uint4*>(experts)[i] = reinterpret_cast<const uint4*>(args.experts)[i];
  }
}

// A warp's stages: stage `warp` of a tile and every kWarpsK-th after it, then those of the block's
// next tile.
template <class G>
class WarpLoader {
 public:
  INTERMIX_DEVICE WarpLoader(const GemmArgs& args, int32_t warp, int32_t num_tiles)
      : warp_(warp), tile_(static_cast<int32_t>(blockIdx.x)), stage_(warp), num_tiles_(num_tiles) {
    if (warp >= NumStages<G>(args)) num_tiles_ = 0;
  }

  // Every lane commits, also where there is nothing left to load: waits count groups.
  INTERMIX_DEVICE void Load(char* stage, const GemmArgs& args, const GemmExpert* experts) {
    LoadPart<kWhole>(stage, args, experts);
    cp_async_commit();
  }

  // Fills the empty ring, stage by stage, so that each is used as soon as it is here.
  INTERMIX_DEVICE void Fill(char* ring, const GemmArgs& args, const GemmExpert* experts) {
#pragma unroll 1
    for (int at = 0; at < kRingBytes; at += G::kStageBytes) Load(ring + at, args, experts);
  }

  // The same while the kernels ahead still run: what is the weight's, and when they have ended, the
  // rows. Then the weight is here, and need not come stage by stage.
  INTERMIX_DEVICE void FillEarly(char* ring, const GemmArgs& args, const GemmExpert* experts) {
    WarpLoader weight = *this;
#pragma unroll 1
    for (int at = 0; at < kRingBytes; at += G::kStageBytes) {
      weight.template LoadPart<kWeight>(ring + at, args, experts);
    }
    wait_for_kernels_ahead();
#pragma unroll 1
    for (int at = 0; at < kRingBytes; at += G::kStageBytes) {
      LoadPart<kRows>(ring + at, args, experts);
      cp_async_commit();
    }
  }

 private:
  static constexpr int kRingBytes = G::kStages * G::kStageBytes;
  enum Part { kWhole, kWeight, kRows };

  template <Part kPart>
  INTERMIX_DEVICE void LoadPart(char* stage, const GemmArgs& args, const GemmExpert* experts) {
    if (tile_ >= num_tiles_) return;
    if (stage_ == warp_) {
      const TilePlace tile = finder_.Find(args, tile_);
      loader_ = TileLoader<G>(args, experts[tile.expert], tile, stage_);
    }
    if constexpr (kPart != kRows) {
      loader_.LoadWeight(stage, args, stage_);
    } else {
      loader_.SkipWeight();
    }
    if constexpr (kPart != kWeight) loader_.LoadRows(stage, args, stage_);
    stage_ += G::kWarpsK;
    if (stage_ >= NumStages<G>(args)) {
      stage_ = warp_;
      tile_ += static_cast<int32_t>(gridDim.x);
    }
  }

  int32_t warp_;
  int32_t tile_;
  int32_t stage_;
  int32_t num_tiles_;
  TileFinder<G> finder_ = {};
  TileLoader<G> loader_ = {};
};

// The end of a tile: the warps' sums meet in shared memory, [warps][pairs][lanes], where a pair is
// two adjacent out features of one token. A warp finishes kMine pairs that follow each other, in
// all of which a lane has the same out features; what they are scaled by is read before the tile is
// multiplied.
template <class G>
class TileEnd {
 public:
  INTERMIX_DEVICE TileEnd(const GemmArgs& args, const GemmExpert& expert, const TilePlace& tile,
                          int32_t warp, const ThreadPlace<G>& place)
      : warp_(warp),
        feature_(tile.feature + warp * kMine / kOfFeatures * 16 + 2 * place.g()),
        token_(Token(kMine < kOfFeatures ? warp * kMine % kOfFeatures : 0) + 2 * place.t()) {
    if (!has_pairs(args)) return;
    // Are there: the arrays are padded to 16 features, but not to a tile.
    for (int p = 0; p < 2; ++p) scales_[p].Read(expert, feature_ + p);
    if (args.output == GemmOutput::kI32) return;
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      const int token = token_ + Token(m);
      if (token < tile.num_rows) row_scales_[m] = args.x_scales[tile.row + token];
    }
  }

  INTERMIX_DEVICE void Finish(const GemmArgs& args, const TilePlace& tile,
                              const ThreadPlace<G>& place, char* sums,
                              const Accumulators<G>& acc) const {
    uint2* const mine = reinterpret_cast<uint2*>(sums) + place.lane;
    sync_block();  // the tile before is finished
#pragma unroll
    for (int s = 0; s < kPairs; ++s) {
      const auto& sum = acc.sum[s / kOfFeatures][s / 2 % G::kTokenTiles];
      mine[(warp_ * kPairs + s) * 32] =
          make_uint2(static_cast<uint32_t>(sum[s % 2]), static_cast<uint32_t>(sum[2 + s % 2]));
    }
    sync_block();
    if (!has_pairs(args)) return;
    int32_t totals[kMine][2] = {};
#pragma unroll
    for (int w = 0; w < G::kWarpsK; ++w) {
#pragma unroll
      for (int m = 0; m < kMine; ++m) {
        const uint2 sum = mine[(w * kPairs + warp_ * kMine + m) * 32];
        totals[m][0] += static_cast<int32_t>(sum.x);
        totals[m][1] += static_cast<int32_t>(sum.y);
      }
    }
    switch (args.output) {
      case GemmOutput::kF32:
        return StoreAs<GemmOutput::kF32>(args, tile, totals);
      case GemmOutput::kBF16:
        return StoreAs<GemmOutput::kBF16>(args, tile, totals);
      case GemmOutput::kI32:
        return StoreAs<GemmOutput::kI32>(args, tile, totals);
      case GemmOutput::kSiluMul:
        return StoreHidden(args, tile, totals);
    }
  }

 private:
  static constexpr int kOfFeatures = G::kTokenTiles * 2;  // pairs of one feature tile
  static constexpr int kPairs = G::kFeatureTiles * kOfFeatures;
  static constexpr int kMine = (kPairs + G::kWarpsK - 1) / G::kWarpsK;
  static_assert(kPairs % kMine == 0 && kOfFeatures % kMine == 0);

  // Of a feature tile's pair s, less what depends on the lane.
  INTERMIX_DEVICE static int Token(int s) { return s / 2 * 8 + s % 2; }

  INTERMIX_DEVICE bool has_pairs(const GemmArgs& args) const {
    return (kPairs == kMine * G::kWarpsK || warp_ * kMine < kPairs) && feature_ < args.n;
  }

  template <GemmOutput kOutput>
  INTERMIX_DEVICE void StoreAs(const GemmArgs& args, const TilePlace& tile,
                               const int32_t (&totals)[kMine][2]) const {
    constexpr int kBytes = kOutput == GemmOutput::kBF16 ? 2 : 4;
    const bool second = feature_ + 1 < args.n;
    const bool whole =
        second && reinterpret_cast<uintptr_t>(args.y) % (2 * kBytes) == 0 && args.y_stride % 2 == 0;
    char* const corner =
        static_cast<char*>(args.y) + ((tile.row + token_) * args.y_stride + feature_) * kBytes;
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      if (token_ + Token(m) >= tile.num_rows) continue;
      const uint32_t a = scales_[0].template Bits<kOutput>(totals[m][0], row_scales_[m]);
      const uint32_t b = scales_[1].template Bits<kOutput>(totals[m][1], row_scales_[m]);
      char* const to = corner + Token(m) * args.y_stride * kBytes;
      if (whole) {
        StorePair<kBytes, true>(to, a, b, true);
      } else {
        StorePair<kBytes, false>(to, a, b, second);
      }
    }
  }

  INTERMIX_DEVICE void StoreHidden(const GemmArgs& args, const TilePlace& tile,
                                   const int32_t (&totals)[kMine][2]) const {
    uint16_t* const corner =
        static_cast<uint16_t*>(args.y) + (tile.row + token_) * args.y_stride + feature_ / 2;
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      if (token_ + Token(m) >= tile.num_rows) continue;
      corner[Token(m) * args.y_stride] =
          HiddenBits<G>(scales_, totals[m][0], totals[m][1], row_scales_[m]);
    }
  }

  int32_t warp_;
  int32_t feature_;  // of y, the even one of this lane's pairs
  int32_t token_;    // of the tile, that of its first pair
  FeatureScale<G> scales_[2];
  float row_scales_[kMine];
};

template <class G>
__global__ void __launch_bounds__(G::kThreads, G::kBlocksPerSm)
    DecodeGemmKernel(const GemmArgs args, const Layout layout) {
  constexpr int kRingBytes = G::kStages * G::kStageBytes;
  const GemmExpert* const experts = layout.experts();
  ReadExperts(args, layout.experts());
  const bool early = args.row_offsets == nullptr || args.offsets_are_old;
  if (!early) wait_for_kernels_ahead();
  CountRowTiles<G>(args);
  sync_block();
  const int32_t num_tiles = FirstRowTiles<G>()[args.num_experts] * NumSlabs<G>(args);
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / 32;
  char* const ring = shared_memory() + layout.stages_at + warp * kRingBytes;
  char* const sums = shared_memory() + layout.stages_at + G::kWarpsK * kRingBytes;
  WarpLoader<G> loader(args, warp, num_tiles);
  if (early) {
    loader.FillEarly(ring, args, experts);
  } else {
    loader.Fill(ring, args, experts);
  }
  let_next_kernel_start();

  const ThreadPlace<G> place(static_cast<int32_t>(threadIdx.x) % 32);
  TileFinder<G> finder;
  Accumulators<G> acc;
  int at = 0;
#pragma unroll 1
  for (int32_t t = static_cast<int32_t>(blockIdx.x); t < num_tiles;
       t += static_cast<int32_t>(gridDim.x)) {
    const TilePlace tile = finder.Find(args, t);
    const GemmExpert& expert = experts[tile.expert];
    const TileEnd<G> end(args, expert, tile, warp, place);
    const GroupIndex groups(expert);
    acc.Clear();
    const auto multiply = [&]<int kTokenTiles>() {
#pragma unroll 1
      for (int32_t stage = warp; stage < NumStages<G>(args); stage += G::kWarpsK) {
        cp_async_wait<G::kStages - 1>();
        sync_warp();  // what the other lanes have loaded
        // A group may go on in another warp's stage: a part of it is promoted like a whole.
        ComputeStage<G, kTokenTiles>(ring + at, place, groups, stage, /*last=*/true, acc);
        sync_warp();  // all have read the stage
        loader.Load(ring + at, args, experts);
        at = at + G::kStageBytes < kRingBytes ? at + G::kStageBytes : 0;
      }
    };
    if (G::kHalves && tile.num_rows <= G::kTokens / 2) {
      multiply.template operator()<G::kHalves ? G::kTokenTiles / 2 : G::kTokenTiles>();
    } else {
      multiply.template operator()<G::kTokenTiles>();
    }
    acc.TakeBiasAway();
    end.Finish(args, tile, place, sums, acc);
  }
  cp_async_wait<0>();
}

template <int kTileIndex, GemmMode kMode>
void LaunchDecodeTile(const GemmArgs& args, const GemmPlan& plan, cudaStream_t stream) {
  using G = Geometry<kTileIndex, kMode>;
  const GemmTile& tile = kGemmTiles[kTileIndex];
  const Layout layout = {.experts_at = GemmExpertsAt(args.num_experts),
                         .stages_at = GemmHeaderBytes(tile, args.num_experts)};
  Launch("gemm_decode_s8_sm80", DecodeGemmKernel<G>,
         {.grid = dim3(static_cast<unsigned>(plan.blocks)),
          .block = dim3(G::kThreads),
          .shared_bytes = static_cast<size_t>(layout.stages_at + tile.PipelineBytes(kMode)),
          .stream = stream,
          .early = true},
         args, layout);
}

template <GemmMode kMode>
void LaunchMode(const GemmArgs& args, const GemmPlan& plan, cudaStream_t stream) {
  if constexpr (SumsInFloat(kMode)) {
    Fatal("a float sum has one order: its K is not split");
  } else {
    switch (plan.tile) {
      case 8:
        return LaunchDecodeTile<8, kMode>(args, plan, stream);
      case 9:
        return LaunchDecodeTile<9, kMode>(args, plan, stream);
      case 10:
        return LaunchDecodeTile<10, kMode>(args, plan, stream);
      case 12:
        return LaunchDecodeTile<12, kMode>(args, plan, stream);
      case 13:
        return LaunchDecodeTile<13, kMode>(args, plan, stream);
      case 14:
        return LaunchDecodeTile<14, kMode>(args, plan, stream);
      default:
        if constexpr (!Promotes(kMode)) {
          if (plan.tile == 11) return LaunchDecodeTile<11, kMode>(args, plan, stream);
          if (plan.tile == 15) return LaunchDecodeTile<15, kMode>(args, plan, stream);
        }
        Fatal("not a tile of this family for the mode");
    }
  }
}

}  // namespace

void LaunchGemmDecode(const GemmArgs& args, GemmMode mode, const GemmPlan& plan,
                      cudaStream_t stream) {
  WithMode(mode, [&]<GemmMode kMode>() { LaunchMode<kMode>(args, plan, stream); });
}

}  // namespace intermix::cuda
