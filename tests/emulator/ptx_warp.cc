// Warp collectives of kernels/cuda/ptx.h: the last lane to arrive computes for all 32.
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/cuda/ptx.h"
#include "tests/emulator/bf16_products.h"
#include "tests/emulator/block.h"
#include "tests/emulator/shadow.h"
#include "tests/emulator/shadow_inl.h"

namespace intermix::cuda {
namespace {

using emu::Collective;
using emu::JoinWarp;

constexpr int kLanes = emu::kWarpLanes;

struct Shuffle {
  uint32_t value;
  int source;
  uint32_t result;
};

void CombineShuffle(void* const* arguments) {
  for (int l = 0; l < kLanes; ++l) {
    Shuffle& lane = *static_cast<Shuffle*>(arguments[l]);
    lane.result = static_cast<const Shuffle*>(arguments[lane.source & (kLanes - 1)])->value;
  }
}

uint32_t ShuffleFrom(uint32_t value, int source, const void* site) {
  const emu::InEmulator inside;
  Shuffle shuffle = {.value = value, .source = source, .result = 0};
  JoinWarp(Collective::kShuffle, site, &shuffle, CombineShuffle);
  return shuffle.result;
}

int LaneId() { return emu::current_thread->lane(); }

struct Ballot {
  bool predicate;
  uint32_t result;
};

template <typename Accumulator>
struct Mma {
  Accumulator* d;
  const uint32_t* a;
  const uint32_t* b;
};

// PTX ISA 9.7.15.5.13, "Matrix Fragments for mma.m16n8k32": with group = lane / 4, t = lane % 4,
// A: register r holds row group + 8 * (r & 1), columns 16 * (r >> 1) + 4t .. + 3;
// B: register r holds rows 16r + 4t .. + 3 of column group;
// C, D: register r holds row group + 8 * (r >> 1), column 2t + (r & 1).
// The sums of 32 products stay below 2^20: exact in float, which compilers vectorise best.
//   A  int8_t or uint8_t
template <typename A>
void CombineMma8(void* const* arguments) {
  A a[16][32];
  int8_t b[8][32];  // transposed
  for (int l = 0; l < kLanes; ++l) {
    const auto& lane = *static_cast<const Mma<int32_t>*>(arguments[l]);
    const int group = l / 4, t = l % 4;
    for (int r = 0; r < 4; ++r) {
      std::memcpy(&a[group + 8 * (r & 1)][16 * (r >> 1) + 4 * t], &lane.a[r], 4);
    }
    for (int r = 0; r < 2; ++r) std::memcpy(&b[group][16 * r + 4 * t], &lane.b[r], 4);
  }
  float columns[32][8];
  for (int k = 0; k < 32; ++k) {
    for (int n = 0; n < 8; ++n) columns[k][n] = b[n][k];
  }
  float sums[16][8] = {};
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 32; ++k) {
      const float value = a[m][k];
      for (int n = 0; n < 8; ++n) sums[m][n] += value * columns[k][n];
    }
  }
  for (int l = 0; l < kLanes; ++l) {
    int32_t* d = static_cast<const Mma<int32_t>*>(arguments[l])->d;
    for (int r = 0; r < 4; ++r) {
      const auto sum = static_cast<int32_t>(sums[l / 4 + 8 * (r >> 1)][2 * (l % 4) + (r & 1)]);
      d[r] = static_cast<int32_t>(static_cast<uint32_t>(d[r]) + static_cast<uint32_t>(sum));
    }
  }
}

// As above with two elements a register (UnpackA): B rows 8r + 2t, + 1.
void CombineMmaBf16(void* const* arguments) {
  float a[16][16], b[8][16];
  for (int l = 0; l < kLanes; ++l) {
    const auto& lane = *static_cast<const Mma<float>*>(arguments[l]);
    emu::UnpackA(lane.a, l, a);
    for (int r = 0; r < 2; ++r) emu::UnpackBf16(lane.b[r], &b[l / 4][8 * r + 2 * (l % 4)]);
  }
  for (int l = 0; l < kLanes; ++l) {
    float* d = static_cast<const Mma<float>*>(arguments[l])->d;
    for (int r = 0; r < 4; ++r) {
      const float* row = a[l / 4 + 8 * (r >> 1)];
      const float* column = b[2 * (l % 4) + (r & 1)];
      d[r] = emu::AddProducts(d[r], row, column);
    }
  }
}

struct Ldmatrix {
  const uint16_t* row;
  std::array<uint32_t, 4> result;
};

// PTX ISA 9.7.15.5.15, "ldmatrix": lane 8m + i gives row i of matrix m; register m of lane l then
// holds elements (l / 4, 2 * (l % 4)) and the next in the row; transposed: (2 * (l % 4), l / 4) and
// the next in the column.
template <bool kTransposed>
void CombineLdmatrix(void* const* arguments) {
  for (int l = 0; l < kLanes; ++l) {
    auto& lane = *static_cast<Ldmatrix*>(arguments[l]);
    const int i = l / 4, j = 2 * (l % 4);
    for (int m = 0; m < 4; ++m) {
      const auto row = [&](int r) {
        return static_cast<const Ldmatrix*>(arguments[8 * m + r])->row;
      };
      const uint32_t low = kTransposed ? row(j)[i] : row(i)[j];
      const uint32_t high = kTransposed ? row(j + 1)[i] : row(i)[j + 1];
      lane.result[m] = low | high << 16;
    }
  }
}

template <bool kTransposed>
void LoadMatrices(uint32_t (&r)[4], const void* shared_row, const void* site) {
  const emu::InEmulator inside;
  emu::CheckShared(shared_row, "ldmatrix");
  emu::CheckFast<16, emu::Access::kReadByWarp>(*emu::current_thread,
                                               reinterpret_cast<uintptr_t>(shared_row));
  Ldmatrix lane = {.row = static_cast<const uint16_t*>(shared_row), .result = {}};
  JoinWarp(Collective::kLdmatrix, site, &lane, CombineLdmatrix<kTransposed>);
  for (int m = 0; m < 4; ++m) r[m] = lane.result[m];
}

}  // namespace

void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const emu::InEmulator inside;
  Mma<int32_t> lane = {.d = d, .a = a, .b = b};
  JoinWarp(Collective::kMma, __builtin_return_address(0), &lane, CombineMma8<int8_t>);
}

void mma_m16n8k32_u8_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const emu::InEmulator inside;
  Mma<int32_t> lane = {.d = d, .a = a, .b = b};
  JoinWarp(Collective::kMma, __builtin_return_address(0), &lane, CombineMma8<uint8_t>);
}

void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const emu::InEmulator inside;
  Mma<float> lane = {.d = d, .a = a, .b = b};
  JoinWarp(Collective::kMma, __builtin_return_address(0), &lane, CombineMmaBf16);
}

void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row) {
  LoadMatrices<false>(r, shared_row, __builtin_return_address(0));
}

void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row) {
  LoadMatrices<true>(r, shared_row, __builtin_return_address(0));
}

float shfl_xor_f32(float value, int lane_mask) {
  return std::bit_cast<float>(ShuffleFrom(std::bit_cast<uint32_t>(value), LaneId() ^ lane_mask,
                                          __builtin_return_address(0)));
}

int32_t shfl_xor_s32(int32_t value, int lane_mask) {
  return static_cast<int32_t>(
      ShuffleFrom(static_cast<uint32_t>(value), LaneId() ^ lane_mask, __builtin_return_address(0)));
}

int32_t shfl_s32(int32_t value, int lane) {
  return static_cast<int32_t>(
      ShuffleFrom(static_cast<uint32_t>(value), lane, __builtin_return_address(0)));
}

uint32_t ballot(bool predicate) {
  const emu::InEmulator inside;
  Ballot lane = {.predicate = predicate, .result = 0};
  JoinWarp(Collective::kBallot, __builtin_return_address(0), &lane, [](void* const* arguments) {
    uint32_t mask = 0;
    for (int l = 0; l < kLanes; ++l) {
      mask |= uint32_t{static_cast<const Ballot*>(arguments[l])->predicate} << l;
    }
    for (int l = 0; l < kLanes; ++l) static_cast<Ballot*>(arguments[l])->result = mask;
  });
  return lane.result;
}

void sync_warp() {
  const emu::InEmulator inside;
  JoinWarp(Collective::kSyncWarp, __builtin_return_address(0), nullptr, nullptr);
}

}  // namespace intermix::cuda
