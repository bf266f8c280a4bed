#include "comm/thread_communicator.h"

#include <algorithm>
#include <barrier>
#include <cstring>
#include <utility>

#include "kernels/core/check.h"

namespace intermix {
namespace {

enum class Op { kBroadcast, kAllGather, kAllToAll, kAllReduceMax, kMerge, kBarrier, kSplit };

// What a rank brings to the collective under way; peers read it between two barriers.
struct Offer {
  Op op = Op::kBarrier;
  const void* in = nullptr;
  std::span<const int64_t> bytes;  // AllGather: all ranks'; AllToAll: sent to each rank
  int64_t count = 0;               // Broadcast: bytes; AllReduceMax, Merge: elements
  int color = 0;
  int key = 0;
};

struct Group {
  explicit Group(int n) : offers(n), split(n), barrier(n) {}
  std::vector<Offer> offers;
  std::vector<std::pair<std::shared_ptr<Group>, int>>
      split;  // each rank's new group and rank in it
  std::barrier<> barrier;
};

int64_t Sum(std::span<const int64_t> values) {
  int64_t total = 0;
  for (int64_t v : values) total += v;
  return total;
}

void Copy(void* out, const void* in, int64_t bytes) {
  if (bytes > 0) std::memcpy(out, in, static_cast<size_t>(bytes));
}

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(group_->offers.size()); }

  void Broadcast(void* data, size_t bytes, int root) override {
    Publish({.op = Op::kBroadcast, .in = data, .count = static_cast<int64_t>(bytes)});
    const Offer& from = group_->offers[root];
    CHECK_EQ(from.count, static_cast<int64_t>(bytes));
    if (rank_ != root) Copy(data, from.in, from.count);
    group_->barrier.arrive_and_wait();
  }

  void AllGather(const void* in, void* out, std::span<const int64_t> bytes) override {
    CHECK_EQ(static_cast<int>(bytes.size()), size());
    Publish({.op = Op::kAllGather, .in = in, .bytes = bytes});
    char* to = static_cast<char*>(out);
    for (int r = 0; r < size(); ++r) {
      const Offer& from = group_->offers[r];
      CHECK(std::ranges::equal(from.bytes, bytes)) << "ranks disagree on AllGather's sizes";
      Copy(to, from.in, bytes[r]);
      to += bytes[r];
    }
    group_->barrier.arrive_and_wait();
  }

  void AllToAll(const void* in, std::span<const int64_t> send_bytes, void* out,
                std::span<const int64_t> recv_bytes) override {
    CHECK_EQ(static_cast<int>(send_bytes.size()), size());
    Publish({.op = Op::kAllToAll, .in = in, .bytes = send_bytes});
    char* to = static_cast<char*>(out);
    for (int r = 0; r < size(); ++r) {
      const Offer& from = group_->offers[r];
      CHECK_EQ(from.bytes[rank_], recv_bytes[r]) << "from rank " << r << " to rank " << rank_;
      Copy(to, static_cast<const char*>(from.in) + Sum(from.bytes.first(rank_)), recv_bytes[r]);
      to += recv_bytes[r];
    }
    group_->barrier.arrive_and_wait();
  }

  void AllReduceMax(float* data, int64_t count) override {
    const std::vector<float> mine(data, data + count);
    Publish({.op = Op::kAllReduceMax, .in = mine.data(), .count = count});
    for (const Offer& from : group_->offers) {
      CHECK_EQ(from.count, count);
      const float* theirs = static_cast<const float*>(from.in);
      for (int64_t i = 0; i < count; ++i) data[i] = std::max(data[i], theirs[i]);
    }
    group_->barrier.arrive_and_wait();
  }

  void Merge(void* words, int64_t count) override {
    uint32_t* data = static_cast<uint32_t*>(words);
    const std::vector<uint32_t> mine(data, data + count);
    Publish({.op = Op::kMerge, .in = mine.data(), .count = count});
    for (const Offer& from : group_->offers) {
      CHECK_EQ(from.count, count);
      const uint32_t* theirs = static_cast<const uint32_t*>(from.in);
      for (int64_t i = 0; i < count; ++i) data[i] |= theirs[i];
    }
    group_->barrier.arrive_and_wait();
  }

  void Barrier() override {
    Publish({.op = Op::kBarrier});
    group_->barrier.arrive_and_wait();
  }

  std::unique_ptr<Communicator> Split(int color, int key) override {
    Publish({.op = Op::kSplit, .color = color, .key = key});
    std::vector<int> members;  // ranks of this colour, by (key, rank)
    for (int r = 0; r < size(); ++r) {
      if (group_->offers[r].color == color) members.push_back(r);
    }
    std::ranges::stable_sort(members, {}, [this](int r) { return group_->offers[r].key; });
    if (members.front() == rank_) {
      auto fresh = std::make_shared<Group>(static_cast<int>(members.size()));
      for (size_t i = 0; i < members.size(); ++i) {
        group_->split[members[i]] = {fresh, static_cast<int>(i)};
      }
    }
    group_->barrier.arrive_and_wait();
    auto [group, rank] = std::exchange(group_->split[rank_], {});
    return std::make_unique<ThreadCommunicator>(std::move(group), rank);
  }

 private:
  // Publishes this rank's part and waits for everyone's; then peers' offers may be read until the
  // next arrive_and_wait.
  void Publish(const Offer& offer) {
    group_->offers[rank_] = offer;
    group_->barrier.arrive_and_wait();
    for (const Offer& other : group_->offers) {
      CHECK(other.op == offer.op) << "ranks called different collectives";
    }
  }

  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(int size) {
  CHECK_GE(size, 1);
  auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(std::make_unique<ThreadCommunicator>(group, r));
  return ranks;
}

}  // namespace intermix
