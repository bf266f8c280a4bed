// wgmma of kernels/cuda/ptx.h, as late as legal: it runs when its warp waits for it, and reads
// registers and shared memory then. Rows of D depend on the same rows of A alone, so each warp of a
// warpgroup computes its own.
#include <cstdint>
#include <cstring>
#include <string>

#include "kernels/cuda/ptx.h"
#include "tests/emulator/block.h"
#include "tests/emulator/report.h"
#include "tests/emulator/shadow.h"
#include "tests/emulator/shadow_inl.h"

namespace emu {
namespace {

constexpr uintptr_t kSwizzleSpan = 1024;  // rows of 128 bytes begin at a multiple of it
constexpr int kRowBytes = 128;
constexpr int kColumns = 128;  // of D

struct MmaWait {
  ThreadState* thread;
  size_t num_mmas;
};

const int8_t* Piece(const char* rows, int column, int half) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(rows);
  const uintptr_t first = at / kSwizzleSpan * kSwizzleSpan;
  const auto piece = static_cast<int>((at - first) / 16) + half;
  return reinterpret_cast<const int8_t*>(first) + column * kRowBytes + (piece ^ column % 8) * 16;
}

// PTX ISA 9.7.16.5.1, "Register fragments and shared memory matrix layouts": a warp's rows of A and
// D lie as in mma.m16n8k32, D in tiles of eight columns.
void Multiply(const MmaWait* const* lanes, size_t index) {
  const auto lane = [&](int l) -> const AsyncMma& { return lanes[l]->thread->mmas[index]; };
  int8_t a[16][32];
  for (int l = 0; l < kWarpLanes; ++l) {
    for (int r = 0; r < 4; ++r) {
      std::memcpy(&a[l / 4 + 8 * (r & 1)][16 * (r >> 1) + 4 * (l % 4)], &lane(l).a[r], 4);
    }
  }
  for (int column = 0; column < kColumns; ++column) {
    int8_t b[32];
    for (int half = 0; half < 2; ++half) {
      std::memcpy(b + 16 * half, Piece(lane(0).rows, column, half), 16);
    }
    for (int row = 0; row < 16; ++row) {
      int32_t sum = 0;
      for (int k = 0; k < 32; ++k) sum += a[row][k] * b[k];
      int32_t* d = lane(row % 8 * 4 + column % 8 / 2).d[column / 8];
      int32_t& to = d[row / 8 * 2 + column % 2];
      const uint32_t before = lane(0).add ? static_cast<uint32_t>(to) : 0;
      to = static_cast<int32_t>(before + static_cast<uint32_t>(sum));
    }
  }
}

void RunWaited(void* const* arguments) {
  const auto* const* lanes = reinterpret_cast<const MmaWait* const*>(arguments);
  for (size_t i = 0; i < lanes[0]->num_mmas; ++i) Multiply(lanes, i);
}

// Each lane reads some of B on behalf of the warp.
void CheckRows(ThreadState& thread, const AsyncMma& mma) {
  for (int column = thread.lane(); column < kColumns; column += kWarpLanes) {
    for (int half = 0; half < 2; ++half) {
      const int8_t* piece = Piece(mma.rows, column, half);
      CheckShared(piece, "wgmma");
      CheckFast<16, Access::kReadByWarp>(thread, reinterpret_cast<uintptr_t>(piece));
    }
  }
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
  for (size_t i = 0; i < wait.num_mmas; ++i) CheckRows(thread, thread.mmas[i]);
  JoinWarp(Collective::kWgmmaWait, site, &wait, RunWaited);
  thread.mmas.erase(thread.mmas.begin(),
                    thread.mmas.begin() + static_cast<std::ptrdiff_t>(wait.num_mmas));
}

}  // namespace emu

namespace intermix::cuda {

using emu::current_thread;

void wgmma_m64n128k32_s8(int32_t (&d)[16][4], const uint32_t (&a)[4], const void* rows, bool add) {
  const emu::InEmulator inside;
  const uintptr_t in_span = reinterpret_cast<uintptr_t>(rows) % emu::kSwizzleSpan;
  if (in_span % 32 != 0 || in_span >= emu::kRowBytes) {
    emu::EndLaunch(emu::Violation::kInvalidArgument,
                   emu::Where() + ": wgmma's rows begin at a multiple of 1024 bytes, not at " +
                       std::to_string(in_span) + " after one");
  }
  if (current_thread->block->unfenced) {
    emu::EndLaunch(emu::Violation::kAsyncCopy,
                   emu::Where() + ": wgmma reads what no fence_async_proxy has shown it");
  }
  current_thread->mmas.push_back(
      {.d = d, .a = a, .rows = static_cast<const char*>(rows), .add = add});
  ++current_thread->uncommitted_mmas;
}

void wgmma_fence() {}

void wgmma_commit() {
  const emu::InEmulator inside;
  current_thread->mma_groups.push_back(current_thread->uncommitted_mmas);
  current_thread->uncommitted_mmas = 0;
}

void fence_async_proxy() {
  const emu::InEmulator inside;
  current_thread->unfenced = false;
}

}  // namespace intermix::cuda
