// wgmma of kernels/cuda/ptx.h, as late as legal: it runs when its warp waits for it, and reads
// registers and shared memory then. Rows of D depend on the same rows of A alone, so each warp of a
// warpgroup computes its own.
#include <cstdint>
#include <cstring>
#include <string>

#include "kernels/cuda/ptx.h"
#include "tests/emulator/bf16_products.h"
#include "tests/emulator/block.h"
#include "tests/emulator/report.h"
#include "tests/emulator/shadow.h"
#include "tests/emulator/shadow_inl.h"

namespace emu {
namespace {

constexpr uintptr_t kSwizzleSpan = 1024;  // rows of 128 bytes begin at a multiple of it
constexpr int kRowBytes = 128;
constexpr int kMaxColumns = 128;
constexpr int kNextColumns = 8192;  // from a transposed B's first 64 columns to the next

struct MmaWait {
  ThreadState* thread;
  size_t num_mmas;
};

// B in pieces of 16 bytes, swizzled. Piece i is half i % 2 of column i / 2's 32 bytes; transposed,
// eight columns of row i % 16.
int NumPieces(const MmaShape& shape) { return shape.columns * 2; }
const char* Piece(const AsyncMma& mma, int i) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(mma.rows);
  const uintptr_t first = at / kSwizzleSpan * kSwizzleSpan;
  const int row = mma.shape.transposed ? i % 16 : i / 2;
  const int piece = mma.shape.transposed ? i / 16 : static_cast<int>((at - first) / 16) + i % 2;
  const int column_bytes = mma.shape.transposed ? piece / 8 * kNextColumns : 0;
  return reinterpret_cast<const char*>(first) + column_bytes + row * kRowBytes +
         (piece % 8 ^ row % 8) * 16;
}

// Calls f(row, column, d) for what the lanes hold of a warp's 16 rows of D: as in mma, in tiles of
// eight columns.
template <typename T, typename F>
void ForEachSum(const MmaWait* const* lanes, size_t index, const F& f) {
  for (int l = 0; l < kWarpLanes; ++l) {
    const AsyncMma& mma = lanes[l]->thread->mmas[index];
    auto* d = static_cast<T*>(mma.d);
    for (int i = 0; i < mma.shape.columns / 2; ++i) {
      const int row = l / 4 + i % 4 / 2 * 8;
      f(row, i / 4 * 8 + l % 4 * 2 + i % 2, d[i]);
    }
  }
}

// PTX ISA 9.7.16.5.1, "Register fragments and shared memory matrix layouts": a warp's rows of A and
// D lie as in mma.m16n8k32, D in tiles of eight columns.
void MultiplyS8(const MmaWait* const* lanes, size_t index) {
  const AsyncMma& mma = lanes[0]->thread->mmas[index];
  int8_t a[16][32];
  for (int l = 0; l < kWarpLanes; ++l) {
    for (int r = 0; r < 4; ++r) {
      std::memcpy(&a[l / 4 + 8 * (r & 1)][16 * (r >> 1) + 4 * (l % 4)],
                  &lanes[l]->thread->mmas[index].a[r], 4);
    }
  }
  int8_t b[kMaxColumns][32];
  for (int i = 0; i < NumPieces(mma.shape); ++i) {
    std::memcpy(&b[i / 2][i % 2 * 16], Piece(mma, i), 16);
  }
  ForEachSum<int32_t>(lanes, index, [&](int row, int column, int32_t& d) {
    int32_t sum = 0;
    for (int k = 0; k < 32; ++k) sum += a[row][k] * b[column][k];
    const uint32_t before = mma.add ? static_cast<uint32_t>(d) : 0;
    d = static_cast<int32_t>(before + static_cast<uint32_t>(sum));
  });
}

// The same as in mma.m16n8k16.
void MultiplyBf16(const MmaWait* const* lanes, size_t index) {
  const AsyncMma& mma = lanes[0]->thread->mmas[index];
  float a[16][16];
  for (int l = 0; l < kWarpLanes; ++l) UnpackA(lanes[l]->thread->mmas[index].a, l, a);
  float b[kMaxColumns][16];
  for (int i = 0; i < NumPieces(mma.shape); ++i) {
    uint16_t piece[8];
    std::memcpy(piece, Piece(mma, i), sizeof(piece));
    for (int e = 0; e < 8; ++e) {
      float& to = mma.shape.transposed ? b[i / 16 * 8 + e][i % 16] : b[i / 2][i % 2 * 8 + e];
      to = FromBf16(piece[e]);
    }
  }
  ForEachSum<float>(lanes, index, [&](int row, int column, float& d) {
    d = AddProducts(mma.add ? d : 0.0f, a[row], b[column]);
  });
}

void RunWaited(void* const* arguments) {
  const auto* const* lanes = reinterpret_cast<const MmaWait* const*>(arguments);
  for (size_t i = 0; i < lanes[0]->num_mmas; ++i) {
    const bool bf16 = lanes[0]->thread->mmas[i].shape.bf16;
    (bf16 ? MultiplyBf16 : MultiplyS8)(lanes, i);
  }
}

// Each lane reads some of B on behalf of the warp.
template <typename F>
void ForEachPieceOfLane(const ThreadState& thread, const AsyncMma& mma, const F& f) {
  for (int i = thread.lane(); i < NumPieces(mma.shape); i += kWarpLanes) f(Piece(mma, i));
}

void Start(const MmaShape& shape, void* d, const uint32_t* a, const void* rows, bool add) {
  const InEmulator inside;
  ThreadState& thread = *current_thread;
  const AsyncMma mma = {
      .shape = shape, .d = d, .a = a, .rows = static_cast<const char*>(rows), .add = add};
  const uintptr_t in_span = reinterpret_cast<uintptr_t>(mma.rows) % kSwizzleSpan;
  if (in_span % 32 != 0 || in_span >= (mma.shape.transposed ? 1 : kRowBytes)) {
    EndLaunch(Violation::kInvalidArgument,
              Where() + ": wgmma's rows begin at a multiple of 1024 bytes, not at " +
                  std::to_string(in_span) + " after one");
  }
  ForEachPieceOfLane(thread, mma, [&](const char* piece) {
    CheckShared(piece, "wgmma");
    CheckSeenByProxy(thread, reinterpret_cast<uintptr_t>(piece));
  });
  thread.mmas.push_back(mma);
  ++thread.uncommitted_mmas;
}

}  // namespace

void WaitForWgmma(int groups, const void* site) {
  const InEmulator inside;
  ThreadState& thread = *current_thread;
  MmaWait wait = {.thread = &thread, .num_mmas = 0};
  while (thread.mma_groups.size() > static_cast<size_t>(groups)) {
    wait.num_mmas += static_cast<size_t>(thread.mma_groups.front());
    thread.mma_groups.erase(thread.mma_groups.begin());
  }
  for (size_t i = 0; i < wait.num_mmas; ++i) {
    ForEachPieceOfLane(thread, thread.mmas[i], [&](const char* piece) {
      CheckFast<16, Access::kReadByWarp>(thread, reinterpret_cast<uintptr_t>(piece));
    });
  }
  JoinWarp(Collective::kWgmmaWait, site, &wait, RunWaited);
  thread.mmas.erase(thread.mmas.begin(),
                    thread.mmas.begin() + static_cast<std::ptrdiff_t>(wait.num_mmas));
}

}  // namespace emu

namespace intermix::cuda {

using emu::current_thread;

namespace {
const char* At(const void* rows, int offset) { return static_cast<const char*>(rows) + offset; }
}  // namespace

void wgmma_m64n128k32_s8(int32_t (&d)[16][4], const uint32_t (&a)[4], const void* rows, bool add) {
  emu::Start({.bf16 = false, .transposed = false, .columns = 128}, d, a, rows, add);
}

void wgmma_m64n64k16_bf16(float (&d)[8][4], const uint32_t (&a)[4], const void* rows, int offset,
                          bool add) {
  emu::Start({.bf16 = true, .transposed = false, .columns = 64}, d, a, At(rows, offset), add);
}

void wgmma_m64n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const void* rows, int offset) {
  emu::Start({.bf16 = true, .transposed = false, .columns = 8}, d, a, At(rows, offset), true);
}

void wgmma_m64n64k16_bf16_trans(float (&d)[8][4], const uint32_t (&a)[4], const void* rows,
                                int offset) {
  emu::Start({.bf16 = true, .transposed = true, .columns = 64}, d, a, At(rows, offset), true);
}

void wgmma_m64n128k16_bf16_trans(float (&d)[16][4], const uint32_t (&a)[4], const void* rows,
                                 int offset) {
  emu::Start({.bf16 = true, .transposed = true, .columns = 128}, d, a, At(rows, offset), true);
}

void wgmma_fence() {}

void wgmma_commit() {
  const emu::InEmulator inside;
  current_thread->mma_groups.push_back(current_thread->uncommitted_mmas);
  current_thread->uncommitted_mmas = 0;
}

void fence_async_proxy() {
  const emu::InEmulator inside;
  emu::ThreadState& thread = *current_thread;
  thread.proxy_fences.push_back(thread.block->Tick());
  thread.stamp = thread.proxy_fences.back() | thread.id;  // what it writes from here on
}

}  // namespace intermix::cuda
