#include "tests/emulator/block.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "tests/emulator/report.h"

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local uint3 blockDim{};
constinit thread_local uint3 gridDim{};

namespace emu {

constinit thread_local ThreadState* current_thread = nullptr;
constinit thread_local ThreadState* kernel_thread = nullptr;

namespace {

const char* CollectiveName(Collective kind) {
  switch (kind) {
    case Collective::kNone:
      return "nothing";
    case Collective::kShuffle:
      return "a shuffle";
    case Collective::kBallot:
      return "a ballot";
    case Collective::kSyncWarp:
      return "sync_warp";
    case Collective::kMma:
      return "an mma";
    case Collective::kLdmatrix:
      return "an ldmatrix";
    case Collective::kWgmmaWait:
      return "wgmma_wait";
    case Collective::kSyncBlock:
      return "sync_block";
  }
  return "";
}

cudaError_t ErrorOf(Violation kind) {
  switch (kind) {
    case Violation::kOutOfBounds:
    case Violation::kUseAfterFree:
    case Violation::kHostMemory:
      return cudaErrorIllegalAddress;
    case Violation::kMisaligned:
      return cudaErrorMisalignedAddress;
    default:
      return cudaErrorLaunchFailure;
  }
}

void Restamp(ThreadState& thread) { thread.stamp = thread.warp->stamp | thread.id; }

}  // namespace

void EndLaunch(Violation kind, const std::string& message) {
  Violate(kind, message);
  ThreadState& thread = *current_thread;
  thread.block->aborted = true;
  thread.block->error = ErrorOf(kind);
  for (;;) thread.fiber->Yield();
}

void JoinWarp(Collective kind, const void* site, void* argument,
              void (*combine)(void* const* arguments)) {
  ThreadState& thread = *current_thread;
  WarpState& warp = *thread.warp;
  if (warp.arrived == 0) {
    warp.kind = kind;
    warp.site = site;
  } else if (warp.kind != kind || warp.site != site) {
    EndLaunch(Violation::kDivergence, Where() + ": enters " + CollectiveName(kind) + " at " +
                                          FunctionName(site) + " while lanes of its warp wait in " +
                                          CollectiveName(warp.kind) +
                                          (warp.kind == kind ? " at another place" : ""));
  }
  warp.arguments[thread.lane()] = argument;
  if (++warp.arrived < kWarpLanes) {
    thread.wait = Wait::kInWarp;
    thread.fiber->Yield();
    return;
  }
  if (combine != nullptr) combine(warp.arguments.data());
  warp.arrived = 0;
  ThreadState* lanes = &thread - thread.lane();
  for (int l = 0; l < kWarpLanes; ++l) lanes[l].wait = Wait::kReady;
  if (kind != Collective::kSyncWarp) return;
  warp.stamp = thread.block->Tick();
  for (int l = 0; l < kWarpLanes; ++l) Restamp(lanes[l]);
}

void JoinBlock(const void* site) {
  ThreadState& thread = *current_thread;
  thread.wait = Wait::kAtBarrier;
  thread.site = site;
  thread.fiber->Yield();
}

void BlockRunner::Prepare(BlockState& block) {
  num_threads_ = static_cast<int>(block.block.x * block.block.y * block.block.z);
  const int num_warps = (num_threads_ + kWarpLanes - 1) / kWarpLanes;
  if (threads_.empty()) {
    threads_.resize(kMaxThreads);  // never moved: warps and threads point at each other
    warps_.resize(kMaxThreads / kWarpLanes);
  }
  block_ = &block;
  block.threads = threads_.data();
  block.fences = {};
  exited_ = 0;
  for (int w = 0; w < num_warps; ++w) {
    warps_[w] = {.index = w,
                 .num_lanes = std::min(kWarpLanes, num_threads_ - w * kWarpLanes),
                 .stamp = block.start};
  }
  for (int t = 0; t < num_threads_; ++t) {
    ThreadState& thread = threads_[t];
    const unsigned id = static_cast<unsigned>(t);
    thread.index = {id % block.block.x, id / block.block.x % block.block.y,
                    id / (block.block.x * block.block.y)};
    thread.id = id;
    thread.wait = Wait::kReady;
    thread.warp = &warps_[t / kWarpLanes];
    thread.block = &block;
    thread.ForgetCopies();
    thread.uncommitted = 0;
    thread.proxy_fences.clear();
    thread.mmas.clear();
    thread.mma_groups.clear();
    thread.uncommitted_mmas = 0;
    thread.fences = {};
    thread.waited = !block.early;
    thread.ordered_until = block.early ? block.early_until : block.ordered_until;
    if (thread.fiber == nullptr) thread.fiber = std::make_unique<Fiber>();
    Restamp(thread);
  }
  lane_order_.resize(kWarpLanes);
  warp_order_.resize(num_warps);
  std::iota(lane_order_.begin(), lane_order_.end(), 0);
  std::iota(warp_order_.begin(), warp_order_.end(), 0);
  if (options_->order == Order::kReversed) {
    std::reverse(lane_order_.begin(), lane_order_.end());
    std::reverse(warp_order_.begin(), warp_order_.end());
  }
}

void BlockRunner::Resume(ThreadState& thread) {
  current_thread = &thread;
  threadIdx = thread.index;
  if (thread.fiber->Resume(body_)) {
    thread.wait = Wait::kExited;
    ++exited_;
    DeliverCopies(thread, 0);
    if (!thread.mmas.empty()) {
      Violate(Violation::kAsyncCopy, Where() + ": returns while a wgmma is under way");
    }
    if (!thread.waited) {
      Violate(Violation::kNeverWaited,
              Where() + ": starts early and returns without a wait for the kernels ahead");
    }
  }
  current_thread = nullptr;
}

bool BlockRunner::RunWarp(int warp) {
  bool progress = false;
  for (bool ran = true; ran;) {
    ran = false;
    if (options_->order == Order::kSeeded) {
      std::shuffle(lane_order_.begin(), lane_order_.end(), *random_);
    }
    for (int lane : lane_order_) {
      if (lane >= warps_[warp].num_lanes) continue;
      ThreadState& thread = threads_[warp * kWarpLanes + lane];
      if (thread.wait != Wait::kReady) continue;
      Resume(thread);
      if (block_->aborted) return true;
      ran = progress = true;
    }
    // In a drawn order, warps take turns at every collective.
    if (options_->order == Order::kSeeded) break;
  }
  return progress;
}

bool BlockRunner::Run(BlockState& block, const std::function<void()>& body, const Options& options,
                      std::mt19937_64& random) {
  options_ = &options;
  random_ = &random;
  body_ = &body;
  Prepare(block);
  blockIdx = block.index;
  blockDim = block.block;
  gridDim = block.grid;
  while (exited_ < num_threads_ && !block.aborted) {
    if (options.order == Order::kSeeded) {
      std::shuffle(warp_order_.begin(), warp_order_.end(), random);
    }
    bool progress = false;
    for (int warp : warp_order_) {
      progress |= RunWarp(warp);
      if (block.aborted) break;
    }
    if (!progress) Settle();
  }
  if (!block.aborted) return true;
  for (int t = 0; t < num_threads_; ++t) {
    if (threads_[t].wait != Wait::kExited) threads_[t].fiber->Abandon();
  }
  current_thread = nullptr;
  return false;
}

void BlockRunner::Settle() {
  int waiting = 0;
  for (int t = 0; t < num_threads_; ++t) waiting += threads_[t].wait == Wait::kAtBarrier;
  if (waiting == num_threads_) {
    CheckBarrierSites();
    if (!block_->aborted) ReleaseBarrier();
    return;
  }
  for (int t = 0; t < num_threads_; ++t) {
    if (threads_[t].wait != Wait::kExited) current_thread = &threads_[t];
  }
  Violate(Violation::kDivergence, Where() + ": waits for ever: " + DescribeWaits());
  current_thread = nullptr;
  block_->aborted = true;
  block_->error = ErrorOf(Violation::kDivergence);
}

void BlockRunner::CheckBarrierSites() {
  for (int t = 1; t < num_threads_; ++t) {
    if (threads_[t].site == threads_[0].site) continue;
    current_thread = &threads_[t];
    Violate(Violation::kDivergence, Where() + ": waits at another sync_block than thread 0");
    current_thread = nullptr;
    block_->aborted = true;
    block_->error = ErrorOf(Violation::kDivergence);
    return;
  }
}

void BlockRunner::ReleaseBarrier() {
  block_->order->Barrier(*block_, threads_.data(), num_threads_);
  block_->barrier = block_->Tick();
  for (WarpState& warp : warps_) warp.stamp = block_->barrier;
  for (int t = 0; t < num_threads_; ++t) {
    threads_[t].wait = Wait::kReady;
    Restamp(threads_[t]);
  }
}

std::string BlockRunner::DescribeWaits() const {
  int at_barrier = 0, exited = 0, in_warp = 0, short_warp = 0;
  Collective kind = Collective::kNone;
  for (int t = 0; t < num_threads_; ++t) {
    at_barrier += threads_[t].wait == Wait::kAtBarrier;
    exited += threads_[t].wait == Wait::kExited;
    if (threads_[t].wait != Wait::kInWarp) continue;
    ++in_warp;
    kind = threads_[t].warp->kind;
    short_warp += threads_[t].warp->num_lanes < kWarpLanes;
  }
  std::string text = std::to_string(at_barrier) + " threads at sync_block, " +
                     std::to_string(exited) + " have returned";
  if (in_warp > 0) {
    text += ", " + std::to_string(in_warp) + " in " + CollectiveName(kind);
    if (short_warp > 0) text += " of a warp with fewer than 32 lanes";
  }
  return text;
}

}  // namespace emu
