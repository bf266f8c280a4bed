// The stable order of slots by expert, and the tokens' rows in that order, by one kernel.
//
// A block places some consecutive slots and moves their rows. Where they go depends on all slots,
// whose experts every block counts by itself: that is a small part of moving the rows, and no block
// waits for another.
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
  int32_t block_slots;
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

// counts[0][e], counts[1][e]: this warp's share of the slots of expert e, before the block's first
// one and from it on. Several loads are on their way at once.
__device__ void count_slots(const SortParams& p, int32_t first_slot, int32_t* counts) {
  constexpr int kAhead = 8;
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
  const auto warp_begin = static_cast<int32_t>(threadIdx.x) - lane;
  const auto step = static_cast<int32_t>(blockDim.x);
  for (int32_t i = lane; i < 2 * p.num_experts; i += kWarp) counts[i] = 0;
  sync_warp();
  for (int32_t begin = warp_begin; begin < p.slots; begin += kAhead * step) {
    int32_t experts[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int32_t slot = begin + i * step + lane;
      experts[i] = slot < p.slots ? p.expert_of_slot[slot] - p.first_expert : -1;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (begin + i * step >= p.slots) continue;
      const bool valid = experts[i] >= 0 && experts[i] < p.num_experts;
      const int32_t from_here = begin + i * step + lane >= first_slot ? 1 : 0;
      const int32_t key = experts[i] | from_here << p.key_bits;
      const uint32_t peers = match(key, valid, p.key_bits + 1);
      if (valid && is_lowest(peers)) {
        counts[from_here * p.num_experts + experts[i]] += popc(peers);
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

// Moves the rows of the placed slots; where there are fewer than warps, several share one.
template <typename Unit>
__device__ void move_rows(const SortParams& p, int32_t begin, int32_t end, const int32_t* placed) {
  const auto warp = static_cast<int32_t>(threadIdx.x / kWarp);
  const auto lane = static_cast<int32_t>(threadIdx.x % kWarp);
  const auto num_warps = static_cast<int32_t>(blockDim.x / kWarp);
  const int32_t sharers = p.block_slots < num_warps ? num_warps / p.block_slots : 1;
  if (warp >= num_warps / sharers * sharers) return;
  for (int32_t slot = begin + warp / sharers; slot < end; slot += num_warps / sharers) {
    const int32_t row = placed[slot - begin];
    if (row < 0) continue;
    const int32_t token = slot / p.top_k;
    const auto* from = reinterpret_cast<const Unit*>(p.values + token * p.values_stride);
    auto* to = reinterpret_cast<Unit*>(p.rows + row * p.rows_stride);
    const int32_t first = warp % sharers * kWarp + lane;
#pragma unroll 8
    for (int32_t unit = first; unit < p.units; unit += sharers * kWarp) to[unit] = from[unit];
    if (first == 0 && p.scales != nullptr) p.row_scales[row] = p.scales[token];
  }
}

// The row of a block that has but one slot: on its way while the slot's place is found.
template <typename Unit>
class HeldRow {
 public:
  __device__ HeldRow(const SortParams& p, int32_t slot) : token_(slot / p.top_k) {
    from_ = reinterpret_cast<const Unit*>(p.values + token_ * p.values_stride);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (unit(i) < p.units) held_[i] = from_[unit(i)];
    }
  }
  __device__ void Store(const SortParams& p, int32_t row) const {
    if (row < 0) return;
    auto* to = reinterpret_cast<Unit*>(p.rows + row * p.rows_stride);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (unit(i) < p.units) to[unit(i)] = held_[i];
    }
    for (int32_t u = unit(kHeld); u < p.units; u += static_cast<int32_t>(blockDim.x)) {
      to[u] = from_[u];
    }
    if (threadIdx.x == 0 && p.scales != nullptr) p.row_scales[row] = p.scales[token_];
  }

 private:
  static constexpr int kHeld = 2;
  __device__ static int32_t unit(int i) {
    return static_cast<int32_t>(threadIdx.x + static_cast<unsigned>(i) * blockDim.x);
  }
  int32_t token_;
  const Unit* from_;
  Unit held_[kHeld];
};

// Counts all slots and gives the block's, [begin, end), their rows.
//   placed  the row of each, -1 for none; complete on return
__device__ void place_block(const SortParams& p, int32_t begin, int32_t end, int32_t* placed) {
  const auto num_warps = static_cast<int32_t>(blockDim.x / kWarp);
  auto* counts = reinterpret_cast<int32_t*>(shared_memory());  // [warps][2][num_experts]
  int32_t* first_row = counts + 2 * num_warps * p.num_experts;
  int32_t* total = placed + p.block_slots;
  count_slots(p, begin, counts + 2 * static_cast<int32_t>(threadIdx.x / kWarp) * p.num_experts);
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

template <typename Unit>
__global__ void __launch_bounds__(1024, 1) SortByExpertKernel(SortParams p) {
  start_early();
  const auto counts = static_cast<int32_t>(blockDim.x / kWarp) * 2 * p.num_experts;
  int32_t* placed = reinterpret_cast<int32_t*>(shared_memory()) + counts + p.num_experts;
  const auto begin = static_cast<int32_t>(blockIdx.x) * p.block_slots;
  const int32_t end = begin + p.block_slots < p.slots ? begin + p.block_slots : p.slots;
  if (p.rows != nullptr && p.block_slots == 1 && begin < end) {
    const HeldRow<Unit> row(p, begin);
    place_block(p, begin, end, placed);
    row.Store(p, *placed);
  } else {
    place_block(p, begin, end, placed);
    if (p.rows != nullptr) move_rows<Unit>(p, begin, end, placed);
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
  const int64_t block_slots = std::max<int64_t>((slots + kSortBlocks - 1) / kSortBlocks, 1);
  const int64_t blocks = std::max<int64_t>((slots + block_slots - 1) / block_slots, 1);
  // Shared memory of kMaxExperts is 68 KB with 16 warps.
  const int64_t threads = slots < 2048 ? 128 : num_experts > 128 ? 512 : 1024;
  const int64_t counts = (2 * threads / kWarp + 1) * num_experts;
  const int64_t row_bytes =
      moves ? values.cols() * static_cast<int64_t>(ByteSize(values.dtype())) : 0;
  const bool scaled = moves && args.tokens.quantized();
  const auto launch = [&](auto kernel, int64_t unit_bytes) {
    Launch("SortByExpert", kernel,
           {.grid = dim3(static_cast<unsigned>(blocks)),
            .block = dim3(static_cast<unsigned>(threads)),
            .shared_bytes = static_cast<size_t>(counts + block_slots + 1) * sizeof(int32_t),
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
                      .block_slots = static_cast<int32_t>(block_slots),
                      .top_k = static_cast<int32_t>(args.experts.cols()),
                      .first_expert = args.first_expert,
                      .num_experts = static_cast<int32_t>(num_experts),
                      .key_bits = key_bits});
  };
  // The widest unit that divides the rows and their addresses.
  const auto allows = [&](int64_t bytes) {
    return row_bytes % bytes == 0 && RowsAligned(values, bytes) &&
           RowsAligned(order.rows.values, bytes);
  };
  if (allows(16)) {
    launch(SortByExpertKernel<uint4>, 16);
  } else if (allows(4)) {
    launch(SortByExpertKernel<uint32_t>, 4);
  } else {
    launch(SortByExpertKernel<uint8_t>, 1);
  }
}

}  // namespace intermix::cuda
