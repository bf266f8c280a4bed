// The router, and the counts of how busy experts have been.
#include <type_traits>

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/routing.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

// --- Route ---

struct RouteParams {
  const float* x;
  const float* gate;
  int32_t* experts;
  float* weights;
  int64_t x_stride;  // elements
  int64_t gate_stride;
  int64_t experts_stride;
  int64_t weights_stride;
  int64_t tokens;
  int64_t hidden;
  int32_t num_experts;
  int32_t top_k;
  int32_t choosers;  // lanes that choose a token's experts together: a power of two
};

// How one block makes the logits of kTokens tokens. The gate's and the tokens' rows pass through a
// ring of stages in shared memory, kStage in-features each, so that much is in flight at once while
// the 16-lane chains of fmas stay serial. A thread owns one lane of kThreadTokens tokens and
// kThreadExperts experts, half a warp the 16 of them; the gate is walked kExperts at a time. A load
// of 4 bytes to a thread costs shared memory one clock, one of 16 bytes four whatever is the same
// in it, so one lane to a thread makes the most of what is read: 12 loads for 32 fmas where a
// thread has 4 tokens and 8 experts.
template <int kTokensOf, int kThreadTokensOf, int kThreadExpertsOf, int kStageOf, int kStagesOf>
struct RouteTile {
  static constexpr int kTokens = kTokensOf;
  static constexpr int kThreadTokens = kThreadTokensOf;
  static constexpr int kThreadExperts = kThreadExpertsOf;
  static constexpr int kStage = kStageOf;
  static constexpr int kStages = kStagesOf;
  static constexpr int kExperts = 8;
  static constexpr int kRows = kExperts + kTokens;  // of a stage: the gate's, then the tokens'
  static constexpr int kPitch = kStage + 16;        // floats: neighbours lie 16 banks apart
  static constexpr int kSlot = kRows * kPitch;      // of a stage
  static constexpr int kRing = kStages * kSlot;
  static constexpr int kExpertGroups = kExperts / kThreadExperts;
  static constexpr int kTokenGroups = kTokens / kThreadTokens;
  static constexpr int kDotThreads = 16 * kExpertGroups * kTokenGroups;  // the other warps copy
  static constexpr int kCopyWarps = (kRowThreads - kDotThreads) / kWarp;
  static_assert(kDotThreads % kWarp == 0 && kExperts % kCopyWarps == 0);
  static_assert(kStage % (4 * kWarp) == 0);
};
using RouteOneToken = RouteTile<1, 1, 1, 256, 9>;
using RouteFewTokens = RouteTile<4, 2, 2, 256, 6>;
using RouteSomeTokens = RouteTile<16, 4, 4, 128, 6>;
using RouteManyTokens = RouteTile<32, 4, 8, 128, 4>;
// The same in so much memory that a multiprocessor has no place for two: it can start early, and no
// multiprocessor that is free first takes another's block.
using RouteManyTokensAlone = RouteTile<32, 4, 8, 128, 7>;
static_assert(2 * RouteManyTokensAlone::kRing * sizeof(float) > 228 * 1024);

// The stages of a block on their way through the ring, as each role walks them: which experts' gate
// rows, where in the rows they begin, which slot.
struct RouteStage {
  int32_t expert = 0;
  int32_t k = 0;
  int32_t slot = 0;

  template <typename Tile>
  __device__ void advance(int32_t hidden) {
    k += Tile::kStage;
    if (k >= hidden) {
      k = 0;
      expert += Tile::kExperts;
    }
    slot = slot + 1 == Tile::kStages ? 0 : slot + 1;
  }
};

// Copies stages, by those warps that make no dot products; each has every kCopyWarps-th row. Where
// rows begin is known before the stages: the copiers share their schedulers with the warps that
// multiply, so what they do for each stage has to be little. Zeros stand for what is beyond a row:
// they can turn a lane's -0 into +0, which no choice and no weight can tell, and nothing else. For
// a row that is not there some other row is copied, of which nobody reads what comes out.
//   kWide  rows are 16-byte aligned and `hidden` is a multiple of 4
template <typename Tile, bool kWide>
struct RouteCopier {
  static constexpr int kGateRows = Tile::kExperts / Tile::kCopyWarps;
  static constexpr int kTokenRows = (Tile::kTokens + Tile::kCopyWarps - 1) / Tile::kCopyWarps;
  const float* gate[kGateRows];
  const float* x[kTokenRows];
  int32_t warp;
  int32_t column;

  __device__ RouteCopier(const RouteParams& p, int64_t first_token)
      : warp(static_cast<int32_t>(threadIdx.x - Tile::kDotThreads) / kWarp),
        column(static_cast<int32_t>(threadIdx.x % kWarp) * 4) {
#pragma unroll
    for (int i = 0; i < kTokenRows; ++i) {
      const int64_t token = first_token + warp + i * Tile::kCopyWarps;
      x[i] = opaque(p.x + (token < p.tokens ? token : first_token) * p.x_stride);
    }
  }

  __device__ void copy_row(const float* row, int32_t first_k, int32_t hidden, float* to) const {
#pragma unroll
    for (int32_t c = 0; c < Tile::kStage; c += kWarp * 4) {
      const int32_t k = first_k + column + c;
      if constexpr (kWide) {
        cp_async_16(to + c, row + (k < hidden ? k : 0), k < hidden);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) to[c + j] = k + j < hidden ? row[k + j] : 0.0f;
      }
    }
  }

  __device__ void copy(const RouteParams& p, const RouteStage& stage, float* ring) {
    if (stage.k == 0) {
#pragma unroll
      for (int i = 0; i < kGateRows; ++i) {
        const int32_t expert = stage.expert + warp + i * Tile::kCopyWarps;
        gate[i] = opaque(p.gate + (expert < p.num_experts ? expert : 0) * p.gate_stride);
      }
    }
    const auto hidden = static_cast<int32_t>(p.hidden);
    float* to = ring + stage.slot * Tile::kSlot + warp * Tile::kPitch + column;
#pragma unroll
    for (int i = 0; i < kGateRows; ++i, to += Tile::kCopyWarps * Tile::kPitch) {
      copy_row(gate[i], stage.k, hidden, to);
    }
#pragma unroll
    for (int i = 0; i < kTokenRows; ++i, to += Tile::kCopyWarps * Tile::kPitch) {
      if (Tile::kTokens % Tile::kCopyWarps != 0 && warp + i * Tile::kCopyWarps >= Tile::kTokens) {
        break;
      }
      copy_row(x[i], stage.k, hidden, to);
    }
  }
};

// Bits of b where `mask` has ones, else of a.
__device__ float blend(float a, float b, uint32_t mask) {
  return float_of_bits((bits_of_float(a) & ~mask) | (bits_of_float(b) & mask));
}

// The tree of SumLanes over each half of a warp, of kCount sums at once: of two lanes that would
// add the same values, one does so for the first half of the sums, the other for the second. In the
// end lane i has sum i * kCount / 16 and, where there are more sums than lanes, those up to the
// next lane's.
template <int kCount, int kWidth>
__device__ void sum_lanes_of(float* v, int32_t lane) {
  if constexpr (kCount == 1) {
    v[0] = add_rn(v[0], shfl_xor_f32(v[0], kWidth));
  } else {
    const uint32_t upper = (lane & kWidth) != 0 ? 0xFFFFFFFFu : 0;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const float given = shfl_xor_f32(blend(v[i + kCount / 2], v[i], upper), kWidth);
      v[i] = add_rn(blend(v[i], v[i + kCount / 2], upper), given);
    }
  }
  if constexpr (kWidth > 1) sum_lanes_of<(kCount + 1) / 2, kWidth / 2>(v, lane);
}

// One thread's share of the dot products of a block.
template <typename Tile>
struct RouteDots {
  float sums[Tile::kThreadTokens][Tile::kThreadExperts];
  int32_t lane;          // of the 16
  int32_t expert_group;  // its experts and tokens: every kExpertGroups-th, every kTokenGroups-th
  int32_t token_group;

  __device__ RouteDots()
      : lane(static_cast<int32_t>(threadIdx.x % 16)),
        expert_group(static_cast<int32_t>(threadIdx.x / 16 % Tile::kExpertGroups)),
        token_group(static_cast<int32_t>(threadIdx.x / 16 / Tile::kExpertGroups)) {}

  __device__ void clear() {
#pragma unroll
    for (int t = 0; t < Tile::kThreadTokens; ++t) {
#pragma unroll
      for (int e = 0; e < Tile::kThreadExperts; ++e) sums[t][e] = 0.0f;
    }
  }

  __device__ void add_stage(const float* stage) {
    const float* gate = stage + expert_group * Tile::kPitch + lane;
    const float* x = stage + (Tile::kExperts + token_group) * Tile::kPitch + lane;
#pragma unroll 8
    for (int k = 0; k < Tile::kStage; k += 16) {
      float g[Tile::kThreadExperts];
      float v[Tile::kThreadTokens];
#pragma unroll
      for (int e = 0; e < Tile::kThreadExperts; ++e) {
        g[e] = gate[e * Tile::kExpertGroups * Tile::kPitch + k];
      }
#pragma unroll
      for (int t = 0; t < Tile::kThreadTokens; ++t) {
        v[t] = x[t * Tile::kTokenGroups * Tile::kPitch + k];
      }
#pragma unroll
      for (int t = 0; t < Tile::kThreadTokens; ++t) {
#pragma unroll
        for (int e = 0; e < Tile::kThreadExperts; ++e) {
          sums[t][e] = fma_rn(v[t], g[e], sums[t][e]);
        }
      }
    }
  }

  //   logits  [kTokens][num_experts], shared
  __device__ void store(int32_t first_expert, int32_t num_experts, float* logits) const {
    constexpr int kSums = Tile::kThreadTokens * Tile::kThreadExperts;
    float v[kSums];
#pragma unroll
    for (int i = 0; i < kSums; ++i) v[i] = sums[i / Tile::kThreadExperts][i % Tile::kThreadExperts];
    sum_lanes_of<kSums, 8>(v, lane);
    constexpr int kLanes = kSums < 16 ? 16 / kSums : 1;  // that have the same sum
#pragma unroll
    for (int i = 0; i < (kSums + 15) / 16; ++i) {
      const int32_t index = lane * kSums / 16 + i;
      const int32_t expert =
          first_expert + expert_group + index % Tile::kThreadExperts * Tile::kExpertGroups;
      const int32_t token = token_group + index / Tile::kThreadExperts * Tile::kTokenGroups;
      if (lane % kLanes == 0 && expert < num_experts) logits[token * num_experts + expert] = v[i];
    }
  }
};

// The logits of one block's tokens. The roles meet at a barrier before each stage: behind it every
// copy of the stage is here, and the slot of the stage before is free.
//   ring    [kStages][kRows][kPitch], shared
//   logits  [kTokens][num_experts], shared; complete after the next barrier
template <typename Tile, bool kWide>
__device__ void route_logits(const RouteParams& p, int64_t first_token, float* ring,
                             float* logits) {
  const auto hidden = static_cast<int32_t>(p.hidden);
  if (threadIdx.x >= Tile::kDotThreads) {
    RouteCopier<Tile, kWide> copier(p, first_token);
    RouteStage ahead;
    const auto start = [&] {
      if (ahead.expert < p.num_experts) {
        copier.copy(p, ahead, ring);
        ahead.advance<Tile>(hidden);
      }
      cp_async_commit();
    };
#pragma unroll 1
    for (int i = 0; i < Tile::kStages - 1; ++i) start();
#pragma unroll 1
    for (RouteStage stage; stage.expert < p.num_experts; stage.advance<Tile>(hidden)) {
      cp_async_wait<Tile::kStages - 2>();
      sync_roles();
      start();
    }
    cp_async_wait<0>();
    return;
  }
  RouteDots<Tile> dots;
  int32_t slot = 0;
#pragma unroll 1
  for (int32_t expert = 0; expert < p.num_experts; expert += Tile::kExperts) {
    dots.clear();
#pragma unroll 1
    for (int32_t k = 0; k < hidden; k += Tile::kStage) {
      sync_roles();
      dots.add_stage(ring + slot * Tile::kSlot);
      slot = slot + 1 == Tile::kStages ? 0 : slot + 1;
    }
    dots.store(expert, p.num_experts, logits);
  }
}

// An expert and its logit; `expert` is num_experts where there is none.
struct Candidate {
  float logit;
  int32_t expert;
};

// Whether a stands before b in the order of choice. Both exist.
__device__ bool before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.expert < b.expert);
}

// The first expert in the order of choice that stands after `last` (`last.expert` < 0: the very
// first), on all of the token's choosers. Whole warps call this.
__device__ Candidate next_choice(const RouteParams& p, const float* logits, const Candidate& last) {
  Candidate best = {0.0f, p.num_experts};
#pragma unroll 1
  for (auto e = static_cast<int32_t>(threadIdx.x) & (p.choosers - 1); e < p.num_experts;
       e += p.choosers) {
    const Candidate candidate = {logits[e], e};
    if (last.expert >= 0 && !before(last, candidate)) continue;
    if (best.expert == p.num_experts || before(candidate, best)) best = candidate;
  }
#pragma unroll 1
  for (int mask = p.choosers / 2; mask > 0; mask /= 2) {
    const Candidate other = {shfl_xor_f32(best.logit, mask), shfl_xor_s32(best.expert, mask)};
    const bool exists = other.expert != p.num_experts;
    if (exists && (best.expert == p.num_experts || before(other, best))) best = other;
  }
  return best;
}

// Whether one of the token's choosers says so.
__device__ bool any_chooser(const RouteParams& p, bool predicate) {
  const auto warp_lane = static_cast<int32_t>(threadIdx.x % kWarp);
  const uint32_t group = 0xFFFFFFFFu >> (kWarp - p.choosers) << (warp_lane & ~(p.choosers - 1));
  return (ballot(predicate) & group) != 0;
}

// The experts of a token and their softmax, by p.choosers lanes, each of which has at most one
// expert; a warp has as many tokens as it has such groups of lanes. Whole warps call this.
//   writes  whether the lane's token exists; else it only keeps the others company
//   logit   of the expert whose number is the chooser's, if there is one
__device__ void choose_of_lanes(const RouteParams& p, int64_t token, bool writes, float logit) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) & (p.choosers - 1);
  const Candidate none = {-infinity(), p.num_experts};  // stands behind every expert
  const bool any_nan = any_chooser(p, lane < p.num_experts && logit != logit);
  Candidate left = lane < p.num_experts ? Candidate{logit, lane} : none;
  int32_t expert = 0;  // that this lane writes, and its power
  float power = 0.0f;
  float largest = 0.0f;
  float sum = 0.0f;
#pragma unroll 1
  for (int32_t i = 0; i < p.top_k; ++i) {
    Candidate best = left;
#pragma unroll 1
    for (int mask = p.choosers / 2; mask > 0; mask /= 2) {
      const Candidate other = {shfl_xor_f32(best.logit, mask), shfl_xor_s32(best.expert, mask)};
      if (before(other, best)) best = other;
    }
    if (best.expert == lane) left = none;
    if (i == 0) largest = best.logit;
    const float its_power = lane_exp(add_rn(best.logit, -largest));
    sum = add_rn(sum, its_power);
    if (lane == i) {
      expert = best.expert;
      power = its_power;
    }
  }
  if (lane < p.top_k && writes) {
    p.experts[token * p.experts_stride + lane] = any_nan ? lane : expert;
    p.weights[token * p.weights_stride + lane] = any_nan ? quiet_nan() : div_rn(power, sum);
  }
}

// The same of any number of experts.
//   writes  whether the lane's token exists; else it only keeps the others company
//   logits  [num_experts], shared, of the lane's token or any
//   powers  [top_k], shared scratch, of the lane's token
__device__ void choose_experts(const RouteParams& p, int64_t token, bool writes,
                               const float* logits, float* powers) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x) & (p.choosers - 1);
  int32_t* experts = p.experts + token * p.experts_stride;
  float* weights = p.weights + token * p.weights_stride;
  bool nan = false;
#pragma unroll 1
  for (int32_t e = lane; e < p.num_experts; e += p.choosers) nan = nan || logits[e] != logits[e];
  const bool any_nan = any_chooser(p, nan);
  Candidate last = {0.0f, -1};
  float largest = 0.0f;
  float sum = 0.0f;
  for (int32_t i = 0; i < p.top_k; ++i) {
    last = next_choice(p, logits, last);
    if (i == 0) largest = last.logit;
    const float power = lane_exp(add_rn(last.logit, -largest));
    sum = add_rn(sum, power);
    if (lane == 0 && writes) {
      experts[i] = any_nan ? i : last.expert;
      powers[i] = any_nan ? quiet_nan() : power;
    }
  }
  sync_warp();
  for (int32_t i = lane; i < p.top_k && writes; i += p.choosers) {
    weights[i] = any_nan ? quiet_nan() : div_rn(powers[i], sum);
  }
}

// The experts of the block's tokens.
//   logits  [tokens][num_experts], shared, then powers [tokens][top_k]
__device__ void choose_block(const RouteParams& p, int64_t first_token, int32_t tokens,
                             float* logits) {
  float* powers = logits + tokens * p.num_experts;
  const int32_t choosers_log2 = popc(static_cast<uint32_t>(p.choosers - 1));
  const int32_t warp_tokens = kWarp >> choosers_log2;
  const int32_t group = static_cast<int32_t>(threadIdx.x % kWarp) >> choosers_log2;
  const auto warps = static_cast<int32_t>(blockDim.x / kWarp);
  for (int32_t first = static_cast<int32_t>(threadIdx.x / kWarp) * warp_tokens; first < tokens;
       first += warps * warp_tokens) {
    const bool exists = first + group < tokens && first_token + first + group < p.tokens;
    const int32_t t = exists ? first + group : first;
    const float* of_token = logits + t * p.num_experts;
    if (p.num_experts <= p.choosers) {
      const int32_t expert = static_cast<int32_t>(threadIdx.x) & (p.choosers - 1);
      choose_of_lanes(p, first_token + t, exists, of_token[expert < p.num_experts ? expert : 0]);
    } else {
      choose_experts(p, first_token + t, exists, of_token, powers + t * p.top_k);
    }
  }
}

// One block for Tile::kTokens tokens.
template <typename Tile, bool kWide>
__global__ void __launch_bounds__(kRowThreads, 2) RouteKernel(RouteParams p) {
  start_early();
  auto* ring = reinterpret_cast<float*>(shared_memory());
  float* logits = ring + Tile::kRing;  // [kTokens][num_experts], then powers [kTokens][top_k]
  const int64_t first_token = static_cast<int64_t>(blockIdx.x) * Tile::kTokens;
  route_logits<Tile, kWide>(p, first_token, ring, logits);
  sync_block();
  choose_block(p, first_token, Tile::kTokens, logits);
}

// The router of few tokens, whose time is that of latencies: one block for each token keeps the
// whole gate in shared memory, there before the token is, and needs no other block. Each warp makes
// the logits of 8 experts at a time, a quad of lanes for each.
constexpr int kResidentThreads = 256;
constexpr int32_t kResidentTurn = 256;  // in-features of one turn of the loop

// Floats of a row in shared memory: whole turns of the loop below; neighbours lie 16 banks apart.
int32_t ResidentPitch(int64_t hidden) {
  return (static_cast<int32_t>(hidden) + kResidentTurn - 1) / kResidentTurn * kResidentTurn + 16;
}

int64_t ResidentBytes(const RouteParams& p) {
  const int64_t floats = (p.num_experts + 1) * int64_t{ResidentPitch(p.hidden)};
  return (floats + p.num_experts + p.top_k) * static_cast<int64_t>(sizeof(float));
}

// Starts to copy rows of `hidden` floats, with zeros behind them up to whole turns.
template <bool kWide>
__device__ void copy_rows(const float* from, int64_t stride, int32_t rows, int64_t hidden,
                          float* to, int32_t pitch) {
  for (int32_t row = 0; row < rows; ++row, from += stride, to += pitch) {
    for (auto k = static_cast<int32_t>(threadIdx.x) * 4; k < pitch - 16;
         k += kResidentThreads * 4) {
      if constexpr (kWide) {
        cp_async_16(to + k, from + (k < hidden ? k : 0), k < hidden);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) to[k + j] = k + j < hidden ? from[k + j] : 0.0f;
      }
    }
  }
}

// The tree of SumLanes over four neighbouring threads; thread j holds lanes 4j .. 4j + 3.
__device__ float sum_lanes_of_quad(float4 s) {
#pragma unroll
  for (int mask = 2; mask > 0; mask /= 2) {
    s.x = add_rn(s.x, shfl_xor_f32(s.x, mask));
    s.y = add_rn(s.y, shfl_xor_f32(s.y, mask));
    s.z = add_rn(s.z, shfl_xor_f32(s.z, mask));
    s.w = add_rn(s.w, shfl_xor_f32(s.w, mask));
  }
  return add_rn(add_rn(s.x, s.z), add_rn(s.y, s.w));
}

// Lanes 4j .. 4j + 3 of some steps of a dot product, of which thread j of a quad has these.
struct RouteSteps {
  static constexpr int kSteps = kResidentTurn / 2 / 16;
  float4 x[kSteps];
  float4 gate[kSteps];

  // The barrier keeps the compiler from reading each value where it is used.
  __device__ void read(const float* from_x, const float* from_gate) {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      x[i] = *reinterpret_cast<const float4*>(from_x + 16 * i);
      gate[i] = *reinterpret_cast<const float4*>(from_gate + 16 * i);
    }
    sync_warp();
  }
  __device__ void add_to(float4& sum) const {
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      sum.x = fma_rn(x[i].x, gate[i].x, sum.x);
      sum.y = fma_rn(x[i].y, gate[i].y, sum.y);
      sum.z = fma_rn(x[i].z, gate[i].z, sum.z);
      sum.w = fma_rn(x[i].w, gate[i].w, sum.w);
    }
  }
};

// LaneDot(x, gate), of which thread j of a quad has lanes 4j .. 4j + 3. Steps are read while the
// chains of fmas take those before.
//   hidden  a multiple of kResidentTurn
__device__ float4 lane_dots(const float* x, const float* gate, int32_t hidden) {
  constexpr int32_t kHalf = kResidentTurn / 2;
  x += threadIdx.x % 4 * 4;
  gate += threadIdx.x % 4 * 4;
  float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
  RouteSteps even;
  RouteSteps odd;
  even.read(x, gate);
#pragma unroll 1
  for (int32_t k = 0; k < hidden; k += kResidentTurn) {
    odd.read(x + k + kHalf, gate + k + kHalf);
    even.add_to(sum);
    const int32_t next = k + kResidentTurn < hidden ? k + kResidentTurn : 0;
    even.read(x + next, gate + next);
    odd.add_to(sum);
  }
  return sum;
}

template <bool kWide>
__global__ void __launch_bounds__(kResidentThreads)
    RouteResidentKernel(RouteParams p, int32_t pitch) {
  auto* gate = reinterpret_cast<float*>(shared_memory());  // [num_experts][pitch]
  float* x = gate + p.num_experts * pitch;                 // [pitch]
  float* logits = x + pitch;                               // [num_experts], then [top_k]
  const int64_t token = blockIdx.x;
  let_next_kernel_start();
  copy_rows<kWide>(p.gate, p.gate_stride, p.num_experts, p.hidden, gate, pitch);
  wait_for_kernels_ahead();
  copy_rows<kWide>(p.x + token * p.x_stride, 0, 1, p.hidden, x, pitch);
  cp_async_commit();
  cp_async_wait<0>();
  sync_block();
  const auto quad = static_cast<int32_t>(threadIdx.x / 4);
  for (int32_t first = quad / 8 * 8; first < p.num_experts; first += kResidentThreads / 4) {
    const int32_t expert = first + quad % 8;
    const int32_t row = expert < p.num_experts ? expert : 0;
    const float logit = sum_lanes_of_quad(lane_dots(x, gate + row * pitch, pitch - 16));
    if (threadIdx.x % 4 == 0 && expert < p.num_experts) logits[expert] = logit;
  }
  sync_block();
  choose_block(p, token, 1, logits);
}

void LaunchRouteResident(const RouteParams& p, bool wide, cudaStream_t stream) {
  Launch("Route", wide ? RouteResidentKernel<true> : RouteResidentKernel<false>,
         {.grid = dim3(static_cast<unsigned>(p.tokens)),
          .block = dim3(kResidentThreads),
          .shared_bytes = static_cast<size_t>(ResidentBytes(p)),
          .stream = stream,
          .early = true},
         p, ResidentPitch(p.hidden));
}

template <typename Tile>
size_t RouteBytes(const RouteParams& p) {
  const size_t logits = Tile::kTokens * static_cast<size_t>(p.num_experts + p.top_k);
  return (Tile::kRing + logits) * sizeof(float);
}

// Whether a block of the tile has what memory it needs: the two small ones with any experts,
// RouteManyTokens everywhere while num_experts + top_k <= 72.
template <typename Tile>
bool Fits(const RouteParams& p, int32_t shared_bytes) {
  return RouteBytes<Tile>(p) <= static_cast<size_t>(shared_bytes);
}

template <typename Tile>
void LaunchRoute(const RouteParams& p, bool wide, cudaStream_t stream) {
  // Where two blocks fit, the first multiprocessors that are free would get two.
  constexpr bool kEarly = std::is_same_v<Tile, RouteManyTokensAlone>;
  Launch("Route", wide ? RouteKernel<Tile, true> : RouteKernel<Tile, false>,
         {.grid = dim3(static_cast<unsigned>((p.tokens + Tile::kTokens - 1) / Tile::kTokens)),
          .block = dim3(kRowThreads),
          .shared_bytes = RouteBytes<Tile>(p),
          .stream = stream,
          .early = kEarly},
         p);
}

// As many lanes as have something to compare, at most a warp's.
int32_t Choosers(int64_t num_experts) {
  int32_t lanes = 1;
  while (lanes < kWarp && lanes < num_experts) lanes *= 2;
  return lanes;
}

// --- AddRowCounts ---

__global__ void AddRowCountsKernel(const int32_t* row_offsets, int32_t* totals, int32_t experts) {
  start_early();
  const auto e = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x);
  if (e >= experts) return;
  totals[e] = static_cast<int32_t>(static_cast<uint32_t>(totals[e]) +
                                   static_cast<uint32_t>(row_offsets[e + 1] - row_offsets[e]));
}

}  // namespace

void Route(const RouteArgs& args, cudaStream_t stream) {
  CHECK_EQ(args.gate.cols(), args.x.cols());
  CHECK_EQ(args.weights.cols(), args.experts.cols());
  CHECK_LE(args.experts.cols(), args.gate.rows());
  CHECK_LE(args.gate.rows(), kMaxExperts);
  const bool wide = args.x.cols() % 4 == 0 && RowsAligned(args.x, 16) && RowsAligned(args.gate, 16);
  const RouteParams params = {.x = args.x.data<float>(),
                              .gate = args.gate.data<float>(),
                              .experts = args.experts.data<int32_t>(),
                              .weights = args.weights.data<float>(),
                              .x_stride = args.x.stride(0),
                              .gate_stride = args.gate.stride(0),
                              .experts_stride = args.experts.stride(0),
                              .weights_stride = args.weights.stride(0),
                              .tokens = args.x.rows(),
                              .hidden = args.x.cols(),
                              .num_experts = static_cast<int32_t>(args.gate.rows()),
                              .top_k = static_cast<int32_t>(args.experts.cols()),
                              .choosers = Choosers(args.gate.rows())};
  // Few tokens have a multiprocessor each; many share what they read of the gate.
  if (params.tokens <= 128 && ResidentBytes(params) <= args.shared_bytes) {
    LaunchRouteResident(params, wide, stream);
  } else if (params.tokens > 2048 && Fits<RouteManyTokensAlone>(params, args.shared_bytes)) {
    LaunchRoute<RouteManyTokensAlone>(params, wide, stream);
  } else if (params.tokens > 2048 && Fits<RouteManyTokens>(params, kLeastSharedBytes)) {
    LaunchRoute<RouteManyTokens>(params, wide, stream);
  } else if (params.tokens > 512 && Fits<RouteSomeTokens>(params, kLeastSharedBytes)) {
    LaunchRoute<RouteSomeTokens>(params, wide, stream);
  } else if (params.tokens > 128) {
    LaunchRoute<RouteFewTokens>(params, wide, stream);
  } else {
    LaunchRoute<RouteOneToken>(params, wide, stream);
  }
}

void AddRowCounts(const AddRowCountsArgs& args, cudaStream_t stream) {
  CHECK_EQ(args.row_offsets.rows(), args.totals.rows() + 1);
  const auto experts = static_cast<unsigned>(args.totals.rows());
  Launch("AddRowCounts", AddRowCountsKernel,
         {.grid = dim3((experts + 127) / 128), .block = dim3(128), .stream = stream, .early = true},
         args.row_offsets.data<int32_t>(), args.totals.data<int32_t>(),
         static_cast<int32_t>(experts));
}

}  // namespace intermix::cuda
