#include "tests/emulator/block_order.h"

#include <algorithm>
#include <iterator>

#include "tests/emulator/block.h"
#include "tests/emulator/shadow.h"

namespace emu {
namespace {

void Append(std::vector<Release>& to, const std::vector<Release>& from, uint64_t except_start) {
  for (const Release& release : from) {
    if (release.block_start == except_start) continue;
    if (std::find(to.begin(), to.end(), release) == to.end()) to.push_back(release);
  }
}

bool AnyCovers(const Release* begin, const Release* end, uint64_t stamp) {
  return std::any_of(begin, end, [stamp](const Release& r) { return r.Covers(stamp); });
}

bool AnyCovers(const std::vector<Release>& releases, uint64_t stamp) {
  return AnyCovers(releases.data(), releases.data() + releases.size(), stamp);
}

bool Releases(const ThreadState& thread) {
  return thread.block->fences.fenced != nullptr || thread.fences.own_before != 0;
}

}  // namespace

bool Release::Covers(uint64_t stamp) const {
  if (stamp < block_start) return false;
  if (stamp < all_before || (fenced != nullptr && stamp < fenced->before)) return true;
  if ((stamp & ~kAtomic) == atomic) return true;
  const uint64_t who = stamp & kWhoMask;
  if (who == thread && stamp < own_before) return true;
  if (fenced == nullptr) return false;
  if (who < fenced->threads.size()) return stamp < fenced->threads[who];
  if (who & kManyThreads) {
    return std::all_of(fenced->threads.begin(), fenced->threads.end(),
                       [stamp](uint64_t before) { return stamp < before; });
  }
  const size_t first = (who & 31) * kWarpLanes;
  const size_t last = std::min(first + kWarpLanes, fenced->threads.size());
  return (who & kLanesOf) && std::all_of(fenced->threads.begin() + static_cast<int64_t>(first),
                                         fenced->threads.begin() + static_cast<int64_t>(last),
                                         [stamp](uint64_t before) { return stamp < before; });
}

void BlockOrder::StartAtomic(ThreadState& thread) {
  // Where it releases, it has a time of its own: who sees it is after it, but not after what the
  // thread did between its fence and now.
  if (Releases(thread)) thread.stamp = thread.block->Tick() | thread.id;
}

void BlockOrder::FinishAtomic(ThreadState& thread, uintptr_t address) {
  BlockState& block = *thread.block;
  Variable& variable = variables_[address];
  if (!variable.releases.empty()) {
    Append(thread.fences.seen, variable.releases, block.start);
    block.fences.active = true;
  }
  if (Releases(thread)) {
    const Release release = {.block_start = block.start,
                             .fenced = block.fences.fenced,
                             .thread = thread.id,
                             .own_before = thread.fences.own_before,
                             .all_before = thread.fences.all_before,
                             .atomic = thread.stamp};
    Append(variable.releases, {release}, 0);
    // What the releaser itself was told goes on with it.
    Append(variable.releases, block.fences.acquired, 0);
    Append(variable.releases, thread.fences.acquired, 0);
    const auto known =
        block.fences.seen.begin() + static_cast<int64_t>(thread.fences.block_acquired);
    Append(variable.releases, {block.fences.seen.begin(), known}, 0);
  }
  if (variable.atomics.empty() || variable.atomics.back() != thread.stamp) {
    variable.atomics.push_back(thread.stamp);
  }
  if (Releases(thread)) thread.stamp = block.Tick() | thread.id;
}

void BlockOrder::Fence(ThreadState& thread) {
  BlockState& block = *thread.block;
  ThreadFences& fences = thread.fences;
  // Later accesses of the thread get a later time: the fence does not speak for them.
  thread.stamp = block.Tick() | thread.id;
  fences.own_before = thread.stamp;
  fences.all_before = block.barrier;
  Append(fences.acquired, fences.seen, block.start);
  fences.seen.clear();
  fences.block_acquired = block.fences.seen.size();
  block.fences.active = true;
}

void BlockOrder::Barrier(BlockState& block, ThreadState* threads, int num_threads) {
  if (!block.fences.active) return;
  block.fences.active = false;
  Fenced fenced;
  if (block.fences.fenced != nullptr) fenced = *block.fences.fenced;
  fenced.threads.resize(static_cast<size_t>(num_threads));
  size_t acquired = 0;
  for (int t = 0; t < num_threads; ++t) {
    const ThreadFences& fences = threads[t].fences;
    fenced.threads[static_cast<size_t>(t)] = fences.own_before;
    fenced.before = std::max(fenced.before, fences.all_before);
    acquired = std::max(acquired, fences.block_acquired);
    if (!fences.acquired.empty()) Append(block.fences.acquired, fences.acquired, block.start);
  }
  const std::vector<Release> followed(block.fences.seen.begin(),
                                      block.fences.seen.begin() + static_cast<int64_t>(acquired));
  Append(block.fences.acquired, followed, block.start);
  for (int t = 0; t < num_threads; ++t) {
    Append(block.fences.seen, threads[t].fences.seen, block.start);
  }
  block.fences.fenced = std::make_shared<const Fenced>(std::move(fenced));
}

bool BlockOrder::Ordered(const ThreadState& thread, uint64_t stamp) const {
  const BlockFences& fences = thread.block->fences;
  const Release* seen = fences.seen.data();
  return AnyCovers(fences.acquired, stamp) || AnyCovers(thread.fences.acquired, stamp) ||
         AnyCovers(seen, seen + thread.fences.block_acquired, stamp);
}

uint64_t BlockOrder::UnorderedAtomic(const ThreadState& thread, uintptr_t address) const {
  const auto found = variables_.find(address);
  if (found == variables_.end()) return 0;
  for (const uint64_t stamp : found->second.atomics) {
    if (!StampOrdered(thread, stamp)) return stamp;
  }
  return 0;
}

}  // namespace emu
