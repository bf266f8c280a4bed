// GemmPack: one weight part as the GEMM kernels read it, made on the host and copied to the device
// as one block of bytes. Pure functions without CUDA; thread-safe.
//
// Arrays, each at a multiple of 256 bytes. N is padded to tiles of 16 out features, K to units of
// 64 in-features (4 bits) or 32 (8 bits); what is padded has code 0 and scale 0.
//   codes        [tiles, units, 32 lanes, 16 bytes]; the lane (g, t) = (lane / 4, lane % 4) of
//                mma.m16n8k32 holds what its A fragment takes, row g being feature 2g of the tile
//                and row g + 8 feature 2g + 1:
//                  8 bits  int8 [k half][row g, row g + 8][4]; in-feature 16 * half + 4 * t + i
//                  4 bits  uint32 [step][row g, row g + 8]; byte i holds the codes of in-features
//                          4 * t + i (low nibble) and 16 + 4 * t + i of the step;
//                          as q + 8 under kFolded4, else as two's complement
//   scales       [tiles, groups, 16] uint8 (kFolded4), int16 (kWide), float (kFloat)
//   multipliers  [padded N] int16: where all of K is one wide group
//   channels     [padded N] float: the channel scales of integer schemes
// Codes take exactly their canonical size where N and K need no padding; scales at most that.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/core/buffer.h"
#include "kernels/cuda/gemm_types.h"
#include "kernels/quant/weight.h"

namespace intermix::cuda {

struct GemmPack {
  int64_t n = 0;
  int64_t k = 0;
  GemmExpert expert;  // pointers are null until At()
  int64_t scales_at = 0;
  int64_t multipliers_at = -1;  // -1: none
  int64_t channels_at = -1;     // -1: none
  Buffer bytes;                 // host memory

  // The descriptor for a copy of `bytes` that begins at `device`, 256-byte aligned.
  GemmExpert At(const void* device) const;
};

// Sums of a longer row could pass int32 on the way, before its scales are applied.
inline constexpr int64_t kGemmMaxK = 131072;

// INVALID_ARGUMENT: an unquantised weight; groups that are neither all of K nor 32 times a power
//   of 2; K above kGemmMaxK; folded scales outside 0..15.
absl::StatusOr<GemmPack> PackGemmWeight(const QuantizedWeight& weight);

}  // namespace intermix::cuda
