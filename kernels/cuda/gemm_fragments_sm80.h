// Operands of mma.m16n8k32 in registers: codes unpacked to int8, rows, and accumulators. Device
// code.
//
// Weights are the A operand (16 out features by 32 in-features) and tokens the B operand, so eight
// tokens fill an instruction. Row g of A is the tile's feature 2g and row g + 8 its feature 2g + 1:
// a lane then owns two adjacent out features of its tokens (fragment layouts: PTX ISA, "Matrix
// Fragments for mma.m16n8k32").
#pragma once

#include <type_traits>

#include "kernels/cuda/gemm_tile_sm80.h"

namespace intermix::cuda {

// What a block has summed up of its tile; entry [i][j][2 * p + h]: feature tile i, token tile j,
// feature p of the lane's pair, token h of the lane's pair.
template <class G>
struct Accumulators {
  typename G::Sum sum[G::kFeatureTiles][G::kTokenTiles][4];
  // Of the group at hand; 16 times as large where codes have 4 bits.
  int32_t partial[G::kPromotes ? G::kFeatureTiles : 1][G::kPromotes ? G::kTokenTiles : 1][4];
  // Of codes that are folded to q * I + 128 (kBiased): this lane's share of the sum of its B
  // fragments' token, by which the sums are too large 128 times.
  int32_t rows[G::kBiased ? G::kTokenTiles : 1];

  INTERMIX_DEVICE void Clear() {
#pragma unroll
    for (auto& row : sum) ClearTiles(row);
    for (int32_t& row : rows) row = 0;
    ClearPartial();
  }
  INTERMIX_DEVICE void ClearPartial() {
#pragma unroll
    for (auto& row : partial) ClearTiles(row);
  }
  // From here on the sums are of the weights themselves. A quad of lanes has one token of a B
  // fragment, a lane two tokens of the sums.
  INTERMIX_DEVICE void TakeBiasAway() {
    if constexpr (G::kBiased) {
      const int first = static_cast<int>(threadIdx.x % 4) * 8;
#pragma unroll
      for (int j = 0; j < G::kTokenTiles; ++j) {
        int32_t total = rows[j] + shfl_xor_s32(rows[j], 1);
        total += shfl_xor_s32(total, 2);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int32_t bias = shfl_s32(total, first + h * 4) * 128;
#pragma unroll
          for (auto& row : sum) row[j][h] -= bias, row[j][2 + h] -= bias;
        }
      }
    }
  }

 private:
  template <typename T, int kTiles>
  INTERMIX_DEVICE static void ClearTiles(T (&tiles)[kTiles][4]) {
#pragma unroll
    for (auto& tile : tiles) {
#pragma unroll
      for (auto& value : tile) value = 0;
    }
  }
};

// Folding four unsigned nibbles x = q + 8, one in each byte: x * I + 128 - 8 * I = q * I + 128. No
// byte carries: it is in 8..248. Flipping the top bit makes it int8 and takes 128 away; where
// instructions are scarce, unsigned bytes are multiplied and the sums corrected (kBiased).
struct Fold {
  uint32_t factor;
  uint32_t bias;

  INTERMIX_DEVICE void Set(uint32_t scale) {
    factor = scale;
    bias = 0x80808080u - scale * 0x08080808u;
  }
  INTERMIX_DEVICE uint32_t Biased(uint32_t nibbles) const { return nibbles * factor + bias; }
  INTERMIX_DEVICE uint32_t Signed(uint32_t nibbles) const { return Biased(nibbles) ^ 0x80808080u; }
};

// nvcc 13.0 runs default member initialisers in the first row of a two-dimensional array only.
static_assert(std::is_trivially_default_constructible_v<Fold>);

// One feature tile's A fragment of step `s` of a unit.
template <class G>
INTERMIX_DEVICE void UnpackCodes(const uint4& unit, int s, const Fold (&fold)[2],
                                 uint32_t (&a)[4]) {
  if constexpr (G::kBits == 8) {
    a[0] = unit.x, a[1] = unit.y, a[2] = unit.z, a[3] = unit.w;
  } else {
    const uint32_t word[2] = {s == 0 ? unit.x : unit.z, s == 0 ? unit.y : unit.w};
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      if constexpr (G::kFolds) {
        const uint32_t low = word[p] & 0x0F0F0F0Fu;
        const uint32_t high = (word[p] >> 4) & 0x0F0F0F0Fu;
        a[p] = G::kBiased ? fold[p].Biased(low) : fold[p].Signed(low);
        a[p + 2] = G::kBiased ? fold[p].Biased(high) : fold[p].Signed(high);
      } else {  // a nibble in the upper half of a byte is 16 times its code
        a[p] = (word[p] << 4) & 0xF0F0F0F0u;
        a[p + 2] = word[p] & 0xF0F0F0F0u;
      }
    }
  }
}

// Scales of this lane's two features of feature tile i, in `slot` of the stage.
template <class G>
INTERMIX_DEVICE const char* ScalePair(const char* stage, const ThreadPlace<G>& place, int i,
                                      int slot) {
  const int tile = place.warp_n * G::kFeatureTiles + i;
  return stage + G::kScalesAt + ((tile * kStageSteps + slot) * 16 + 2 * place.g()) * G::kScaleBytes;
}

// The folds of this lane's features, from the scales in `slot` of the stage.
template <class G>
INTERMIX_DEVICE void LoadFolds(const char* stage, const ThreadPlace<G>& place, int slot,
                               Fold (&folds)[G::kFeatureTiles][2]) {
#pragma unroll
  for (int i = 0; i < G::kFeatureTiles; ++i) {
    const uint32_t scales = *reinterpret_cast<const uint16_t*>(ScalePair<G>(stage, place, i, slot));
    folds[i][0].Set(scales & 0xFFu);
    folds[i][1].Set(scales >> 8);
  }
}

// The B fragments of this warp's tokens: of one step, or of a whole pair of steps where there is
// one token tile.
template <class G>
struct RowFragments {
  uint32_t b[2][G::kTokenTiles][2];  // [step of the pair]

  INTERMIX_DEVICE void Load(const char* stage, const ThreadPlace<G>& place, int step) {
    // A step is two pieces of a token, so its number flips bits 1 and 2 of the swizzled piece. Done
    // on the whole offset, one register serves every step.
    const int r = place.lane % 8;
    const int half = place.lane / 8 % 2;
    uint32_t m[4];
    if constexpr (G::kTokenTiles == 1) {
      if (step % 2 != 0) return;
      const int piece = (place.lane / 8) ^ r;  // of two steps
      ldmatrix_x4(m, Piece(stage, r * kStageK + piece * 16, step));
      b[0][0][0] = m[0], b[0][0][1] = m[1], b[1][0][0] = m[2], b[1][0][1] = m[3];
    } else {
      const int token = place.warp_m * G::kTokenTiles * 8 + place.lane / 16 * 8 + r;
      const char* row = Piece(stage, token * kStageK + (half ^ r) * 16, step);
#pragma unroll
      for (int j = 0; j < G::kTokenTiles; j += 2) {
        ldmatrix_x4(m, row + j * 8 * kStageK);
        b[step % 2][j][0] = m[0], b[step % 2][j][1] = m[1];
        b[step % 2][j + 1][0] = m[2], b[step % 2][j + 1][1] = m[3];
      }
    }
  }

 private:
  // Where step 0 reads `offset`, this step reads the result. Stages lie at multiples of 128 bytes.
  INTERMIX_DEVICE static const char* Piece(const char* stage, int offset, int step) {
    const int from = static_cast<int>(stage - shared_memory()) + G::kRowsAt + offset;
    return shared_memory() + (from ^ step * 32);
  }
};

}  // namespace intermix::cuda
