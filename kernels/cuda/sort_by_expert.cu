// The stable order of slots by expert, and the tokens' rows in that order, by one kernel.
//
// A block places the slots of some consecutive tokens and moves their rows. Where they go depends
// on all slots, whose experts every block counts by itself: no block waits for another, and
// meanwhile the block's rows are on their way. A row is read once, whatever the number of its
// slots.
#include <algorithm>

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/routing.h"
#include "kernels/cuda/row_grid.h"

namespace intermix::cuda {
namespace {

constexpr int64_t kSortBlocks = 128;  // at most

struct SortParams {
  const int32_t* expert_of_slot;
  int32_t* token_of_row;
  int32_t* row_of_slot;
  int32_t* row_offsets;
  int32_t* totals;     // null: not counted
  const char* values;  // the tokens' rows
  const float* scales;
  char* rows;  // null: no rows are moved
  float* row_scales;
  int64_t values_stride;  // bytes
  int64_t rows_stride;
  int32_t units;  // of a row
  int32_t slots;
  int32_t tokens;
  int32_t block_tokens;
  int32_t sharers;  // warps that move a token's row
  int32_t groups;   // of as many warps
  int32_t top_k;
  int32_t first_expert;
  int32_t num_experts;
  int32_t key_bits;  // of num_experts - 1
};

// The lanes whose key equals mine; none of the others where `valid` is false.
__device__ uint32_t match(int32_t key, bool valid, int32_t key_bits) {
  uint32_t peers = ballot(valid);
  for (int32_t bit = 0; bit < key_bits; ++bit) {
    const bool mine = ((key >> bit) & 1) != 0;
    const uint32_t set = ballot(mine);
    peers &= mine ? set : ~set;
  }
  return peers;
}

__device__ bool is_lowest(uint32_t peers) {
  return (peers & ((1u << threadIdx.x % kWarp) - 1u)) == 0;
}

constexpr int kAhead = 8;

// What expert_of_slot says of some of the warp's slots; -1 beyond the last. Nothing is done with it
// here, so that nothing waits for it.
__device__ void load_experts(const SortParams& p, int32_t begin, int32_t (&experts)[kAhead]) {
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    const int32_t slot = begin + i * static_cast<int32_t>(blockDim.x) + lane;
    experts[i] = slot < p.slots ? p.expert_of_slot[slot] : -1;
  }
}

// counts[0][e], counts[1][e]: this warp's share of the slots of expert e, before the block's first
// one and from it on. Several loads are on their way at once; meanwhile() starts more behind them.
template <typename Meanwhile>
__device__ void count_slots(const SortParams& p, int32_t first_slot, int32_t* counts,
                            const Meanwhile& meanwhile) {
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
  const auto warp_begin = static_cast<int32_t>(threadIdx.x) - lane;
  const auto step = static_cast<int32_t>(blockDim.x);
  int32_t experts[kAhead];
  load_experts(p, warp_begin, experts);
  meanwhile();
  for (int32_t i = lane; i < 2 * p.num_experts; i += kWarp) counts[i] = 0;
  sync_warp();
  for (int32_t begin = warp_begin; begin < p.slots; begin += kAhead * step) {
    if (begin != warp_begin) load_experts(p, begin, experts);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (begin + i * step >= p.slots) continue;
      const int32_t expert = experts[i] - p.first_expert;
      const bool valid = expert >= 0 && expert < p.num_experts;
      const int32_t from_here = begin + i * step + lane >= first_slot ? 1 : 0;
      const int32_t key = expert | from_here << p.key_bits;
      const uint32_t peers = match(key, valid, p.key_bits + 1);
      if (valid && is_lowest(peers)) {
        counts[from_here * p.num_experts + expert] += popc(peers);
      }
      sync_warp();
    }
  }
}

// Sums the warps' counts: first_row[e] is the row of the block's first slot of expert e, *total the
// number of rows. The first block writes row_offsets and totals. By one warp, 32 experts at a time.
//   counts  [warps][2][num_experts]
__device__ void scan_counts(const SortParams& p, const int32_t* counts, int32_t* first_row,
                            int32_t* total) {
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
  const auto num_warps = static_cast<int32_t>(blockDim.x / kWarp);
  int32_t rows = 0;  // before these 32 experts
  for (int32_t base = 0; base < p.num_experts; base += kWarp) {
    const int32_t expert = base + lane;
    const bool real = expert < p.num_experts;
    int32_t before = 0;
    int32_t after = 0;
#pragma unroll 4
    for (int32_t w = 0; real && w < num_warps; ++w) {
      before += counts[2 * w * p.num_experts + expert];
      after += counts[(2 * w + 1) * p.num_experts + expert];
    }
    const int32_t count = before + after;
    int32_t through = count;  // of the lanes up to this one
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int32_t other = shfl_s32(through, lane < step ? lane : lane - step);
      if (lane >= step) through += other;
    }
    const int32_t begin = rows + through - count;
    if (real) first_row[expert] = begin + before;
    if (real && blockIdx.x == 0) {
      p.row_offsets[expert] = begin;
      if (p.totals != nullptr) red_add_s32(p.totals + expert, count);
    }
    rows += shfl_s32(through, kWarp - 1);
  }
  if (lane == 0) {
    *total = rows;
    if (blockIdx.x == 0) p.row_offsets[p.num_experts] = rows;
  }
}

// Gives the slots [begin, end) their rows, by one warp.
//   placed  [end - begin] the row of each, -1 for none
__device__ void place_slots(const SortParams& p, int32_t begin, int32_t end, int32_t* first_row,
                            int32_t* placed) {
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
  for (int32_t base = begin; base < end; base += kWarp) {
    const int32_t slot = base + lane;
    const int32_t expert = slot < end ? p.expert_of_slot[slot] - p.first_expert : -1;
    const bool valid = expert >= 0 && expert < p.num_experts;
    const uint32_t peers = match(expert, valid, p.key_bits);
    const int32_t first = valid ? first_row[expert] : 0;
    sync_warp();
    if (valid && is_lowest(peers)) first_row[expert] = first + popc(peers);
    sync_warp();
    if (slot >= end) continue;
    const int32_t row = valid ? first + popc(peers & ((1u << lane) - 1u)) : -1;
    placed[slot - begin] = row;
    p.row_of_slot[slot] = row;
    if (valid) p.token_of_row[row] = slot / p.top_k;
  }
}

// What of the block's rows a warp moves: of every p.groups-th token, a share along its row.
struct RowShare {
  int32_t token;  // the first
  int32_t end;    // of the block's tokens
  int32_t unit;   // the first, of this lane
  int32_t lane;
};

// Computed where it is needed: registers are few.
template <typename Chunk>
__device__ RowShare row_share(const SortParams& p) {
  const int32_t thread = opaque(static_cast<int32_t>(threadIdx.x));
  const int32_t lane = thread % kWarp;
  const int32_t group = thread / kWarp / p.sharers;
  const int32_t begin = static_cast<int32_t>(blockIdx.x) * p.block_tokens;
  const int32_t end = begin + p.block_tokens < p.tokens ? begin + p.block_tokens : p.tokens;
  return {.token = begin + group,
          .end = p.rows == nullptr ? 0 : end,
          .unit = (thread / kWarp - group * p.sharers) * Chunk::kUnits + lane,
          .lane = lane};
}

// Some units of a token's row, kHeld for each lane of a warp.
template <typename Unit, int kHeld>
struct RowChunk {
  static constexpr int32_t kUnits = kHeld * kWarp;
  Unit held[kHeld];

  __device__ void load(const SortParams& p, int64_t token, int32_t unit) {
    const auto* from = reinterpret_cast<const Unit*>(p.values + token * p.values_stride) + unit;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (unit + i * kWarp < p.units) held[i] = from[i * kWarp];
    }
  }
  __device__ void store(const SortParams& p, int64_t row, int32_t unit) const {
    auto* to = reinterpret_cast<Unit*>(p.rows + row * p.rows_stride) + unit;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (unit + i * kWarp < p.units) to[i * kWarp] = held[i];
    }
  }
};

// Loads the first chunk of the warp's first token.
template <typename Chunk>
__device__ void load_first(const SortParams& p, Chunk& chunk) {
  const RowShare share = row_share<Chunk>(p);
  if (share.token < share.end) chunk.load(p, share.token, share.unit);
}

// Moves the block's rows, each to the places of all its token's slots.
//   placed  the rows of the block's slots, -1 for none
//   chunk   what load_first has loaded
template <typename Chunk>
__device__ void move_rows(const SortParams& p, const int32_t* placed, Chunk& chunk) {
  const RowShare share = row_share<Chunk>(p);
  placed += (share.token - static_cast<int32_t>(blockIdx.x) * p.block_tokens) * p.top_k;
  for (int32_t token = share.token; token < share.end; token += p.groups) {
    for (int32_t unit = share.unit; unit < p.units; unit += p.sharers * Chunk::kUnits) {
      if (token != share.token || unit != share.unit) chunk.load(p, token, unit);
      for (int32_t k = 0; k < p.top_k; ++k) {
        if (placed[k] >= 0) chunk.store(p, placed[k], unit);
      }
    }
    if (p.scales != nullptr && share.unit == share.lane) {  // one warp of those that share it
      for (int32_t k = share.lane; k < p.top_k; k += kWarp) {
        if (placed[k] >= 0) p.row_scales[placed[k]] = p.scales[token];
      }
    }
    placed += p.groups * p.top_k;
  }
}

// Counts all slots and gives the block's, [begin, end), their rows.
//   placed       the row of each, -1 for none; complete on return
//   meanwhile()  starts loads that are not needed for that
template <typename Meanwhile>
__device__ void place_block(const SortParams& p, int32_t begin, int32_t end, int32_t* placed,
                            const Meanwhile& meanwhile) {
  const auto num_warps = static_cast<int32_t>(blockDim.x / kWarp);
  auto* counts = reinterpret_cast<int32_t*>(shared_memory());  // [warps][2][num_experts]
  int32_t* first_row = counts + 2 * num_warps * p.num_experts;
  int32_t* total = placed + p.block_tokens * p.top_k;
  count_slots(p, begin, counts + 2 * static_cast<int32_t>(threadIdx.x / kWarp) * p.num_experts,
              meanwhile);
  sync_block();
  if (threadIdx.x < kWarp) {
    scan_counts(p, counts, first_row, total);
    sync_warp();
    place_slots(p, begin, end, first_row, placed);
  }
  sync_block();
  if (blockIdx.x != 0) return;
  for (int32_t row = *total + static_cast<int32_t>(threadIdx.x); row < p.slots;
       row += static_cast<int32_t>(blockDim.x)) {
    p.token_of_row[row] = 0;
  }
}

// place_block for no more slots than a warp has lanes: each warp of the block does all by itself.
//   placed  [warps][block's slots]
template <typename Meanwhile>
__device__ void place_few(const SortParams& p, int32_t begin, int32_t end, int32_t* placed,
                          const Meanwhile& meanwhile) {
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
  const auto warp_begin = static_cast<int32_t>(threadIdx.x) - lane;
  const int32_t mine = lane < p.slots ? p.expert_of_slot[lane] : -1;
  meanwhile();
  const bool valid = mine >= p.first_expert && mine - p.first_expert < p.num_experts;
  const int32_t key = valid ? mine - p.first_expert : p.num_experts;  // behind all experts
  int32_t row = 0;
  for (int32_t slot = 0; slot < p.slots; ++slot) {
    const int32_t other = shfl_s32(key, slot);
    row += other < key || (other == key && slot < lane) ? 1 : 0;
  }
  if (lane >= begin && lane < end) placed[lane - begin] = valid ? row : -1;
  sync_warp();
  if (warp_begin == 0 && lane >= begin && lane < end) {
    p.row_of_slot[lane] = valid ? row : -1;
    if (valid) p.token_of_row[row] = lane / p.top_k;
  }
  if (blockIdx.x != 0) return;
  // Those of nobody stand last.
  if (warp_begin == 0 && lane < p.slots && !valid) p.token_of_row[row] = 0;
  for (int32_t base = warp_begin; base <= p.num_experts; base += static_cast<int32_t>(blockDim.x)) {
    const int32_t expert = base + lane;
    int32_t before = 0;
    int32_t count = 0;
    for (int32_t slot = 0; slot < p.slots; ++slot) {
      const int32_t other = shfl_s32(key, slot);
      before += other < expert ? 1 : 0;
      count += other == expert ? 1 : 0;
    }
    if (expert <= p.num_experts) p.row_offsets[expert] = before;
    if (expert < p.num_experts && p.totals != nullptr) red_add_s32(p.totals + expert, count);
  }
}

template <typename Unit, int kHeld, bool kFewSlots>
__global__ void __launch_bounds__(1024, 1) SortByExpertKernel(SortParams p) {
  start_early();
  const int32_t block_slots = p.block_tokens * p.top_k;
  const auto begin = static_cast<int32_t>(blockIdx.x) * block_slots;
  const int32_t end = begin + block_slots < p.slots ? begin + block_slots : p.slots;
  auto* shared = reinterpret_cast<int32_t*>(shared_memory());
  RowChunk<Unit, kHeld> chunk;
  const auto meanwhile = [&] { load_first(p, chunk); };
  if constexpr (kFewSlots) {
    int32_t* placed = shared + static_cast<int32_t>(threadIdx.x / kWarp) * block_slots;
    place_few(p, begin, end, placed, meanwhile);
    move_rows(p, placed, chunk);
  } else {
    const auto counts = static_cast<int32_t>(blockDim.x / kWarp) * 2 * p.num_experts;
    int32_t* placed = shared + counts + p.num_experts;
    place_block(p, begin, end, placed, meanwhile);
    move_rows(p, placed, chunk);
  }
}

int64_t StrideBytes(const Tensor& rows) {
  return rows.stride(0) * static_cast<int64_t>(ByteSize(rows.dtype()));
}

}  // namespace

void SortByExpert(const SortByExpertArgs& args, cudaStream_t stream) {
  const ExpertOrder& order = args.order;
  const int64_t slots = args.experts.num_elements();
  const int64_t num_experts = order.row_offsets.rows() - 1;
  CHECK(args.experts.contiguous()) << args.experts.ToString();
  CHECK_EQ(order.token_of_row.rows(), slots);
  CHECK_EQ(order.row_of_slot.rows(), slots);
  CHECK(order.totals.empty() || order.totals.rows() == num_experts) << order.totals.ToString();
  CHECK_LE(num_experts, kMaxExperts);
  const bool moves = !order.rows.values.empty();
  const Tensor& values = args.tokens.values;
  if (moves) {
    CHECK_EQ(order.rows.tokens(), slots);
    CHECK_EQ(order.rows.values.cols(), values.cols());
    CHECK(order.rows.values.dtype() == values.dtype()) << values.ToString();
  }
  int32_t key_bits = 0;
  while ((int64_t{1} << key_bits) < num_experts) ++key_bits;
  const int64_t tokens = args.experts.rows();
  const int64_t top_k = args.experts.cols();
  const int64_t block_tokens = std::max<int64_t>((tokens + kSortBlocks - 1) / kSortBlocks, 1);
  const int64_t blocks = std::max<int64_t>((tokens + block_tokens - 1) / block_tokens, 1);
  // Shared memory of kMaxExperts is 68 KB with 16 warps.
  const int64_t threads = slots < 2048 ? 128 : num_experts > 128 ? 512 : 1024;
  const int64_t sharers = std::max<int64_t>(threads / kWarp / block_tokens, 1);
  const bool few_slots = slots <= kWarp;
  const int64_t shared = few_slots ? threads / kWarp * block_tokens * top_k
                                   : (2 * threads / kWarp + 1) * num_experts +  // counts
                                         block_tokens * top_k + 1;
  const int64_t row_bytes =
      moves ? values.cols() * static_cast<int64_t>(ByteSize(values.dtype())) : 0;
  const bool scaled = moves && args.tokens.quantized();
  const auto launch = [&](auto kernel, int64_t unit_bytes) {
    Launch("SortByExpert", kernel,
           {.grid = dim3(static_cast<unsigned>(blocks)),
            .block = dim3(static_cast<unsigned>(threads)),
            .shared_bytes = static_cast<size_t>(shared) * sizeof(int32_t),
            .stream = stream,
            .early = true},
           SortParams{.expert_of_slot = args.experts.data<int32_t>(),
                      .token_of_row = order.token_of_row.data<int32_t>(),
                      .row_of_slot = order.row_of_slot.data<int32_t>(),
                      .row_offsets = order.row_offsets.data<int32_t>(),
                      .totals = order.totals.empty() ? nullptr : order.totals.data<int32_t>(),
                      .values = moves ? static_cast<const char*>(values.raw()) : nullptr,
                      .scales = scaled ? args.tokens.scales.data<float>() : nullptr,
                      .rows = moves ? static_cast<char*>(order.rows.values.raw()) : nullptr,
                      .row_scales = scaled ? order.rows.scales.data<float>() : nullptr,
                      .values_stride = moves ? StrideBytes(values) : 0,
                      .rows_stride = moves ? StrideBytes(order.rows.values) : 0,
                      .units = static_cast<int32_t>(row_bytes / unit_bytes),
                      .slots = static_cast<int32_t>(slots),
                      .tokens = static_cast<int32_t>(tokens),
                      .block_tokens = static_cast<int32_t>(block_tokens),
                      .sharers = static_cast<int32_t>(sharers),
                      .groups = static_cast<int32_t>(threads / kWarp / sharers),
                      .top_k = static_cast<int32_t>(top_k),
                      .first_expert = args.first_expert,
                      .num_experts = static_cast<int32_t>(num_experts),
                      .key_bits = key_bits});
  };
  // A token by itself has all of its block's warps, so that its row is short for each.
  const auto launch_units_of = [&]<typename Unit>(Unit) {
    if (few_slots) {
      launch(SortByExpertKernel<Unit, 2, true>, sizeof(Unit));
    } else if (block_tokens == 1) {
      launch(SortByExpertKernel<Unit, 2, false>, sizeof(Unit));
    } else {
      launch(SortByExpertKernel<Unit, 8, false>, sizeof(Unit));
    }
  };
  // The widest unit that divides the rows and their addresses.
  const auto allows = [&](int64_t bytes) {
    return row_bytes % bytes == 0 && RowsAligned(values, bytes) &&
           RowsAligned(order.rows.values, bytes);
  };
  if (allows(16)) {
    launch_units_of(uint4{});
  } else if (allows(4)) {
    launch_units_of(uint32_t{});
  } else {
    launch_units_of(uint8_t{});
  }
}

}  // namespace intermix::cuda
