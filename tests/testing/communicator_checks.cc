#include "tests/testing/communicator_checks.h"

#include <limits>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"

namespace intermix {
namespace {

// A value that tells which rank made it, for whom, and its index.
int32_t Mark(int from, int to, int64_t index) {
  return static_cast<int32_t>(from * 1000000 + to * 10000 + index);
}

constexpr int64_t kWord = sizeof(int32_t);

void CheckBroadcast(Communicator& world) {
  for (int root = 0; root < world.size(); ++root) {
    std::vector<int32_t> data(777);
    if (world.rank() == root) std::iota(data.begin(), data.end(), Mark(root, 0, 0));
    world.Broadcast(data.data(), data.size() * kWord, root);
    EXPECT_EQ(data.front(), Mark(root, 0, 0));
    EXPECT_EQ(data.back(), Mark(root, 0, 776));
  }
}

// Rank r brings r * 3 words: rank 0 brings nothing.
void CheckAllGather(Communicator& world) {
  std::vector<int64_t> bytes;
  std::vector<int32_t> expected;
  for (int r = 0; r < world.size(); ++r) {
    bytes.push_back(r * 3 * kWord);
    for (int i = 0; i < r * 3; ++i) expected.push_back(Mark(r, 0, i));
  }
  std::vector<int32_t> mine;
  for (int i = 0; i < world.rank() * 3; ++i) mine.push_back(Mark(world.rank(), 0, i));
  std::vector<int32_t> all(expected.size());
  world.AllGather(mine.data(), all.data(), bytes);
  EXPECT_EQ(all, expected);
}

// What one rank sends and expects. In round n, rank f sends (f + 2 * t + n) % 5 words to rank t:
// some pairs exchange nothing.
struct Exchange {
  Exchange(int me, int size, int round) {
    const auto words = [round](int from, int to) { return (from + 2 * to + round) % 5; };
    for (int r = 0; r < size; ++r) {
      send_bytes.push_back(words(me, r) * kWord);
      recv_bytes.push_back(words(r, me) * kWord);
      for (int i = 0; i < words(me, r); ++i) sent.push_back(Mark(me, r, 100 * round + i));
      for (int i = 0; i < words(r, me); ++i) expected.push_back(Mark(r, me, 100 * round + i));
    }
    received.resize(expected.size());
  }

  std::vector<int64_t> send_bytes;
  std::vector<int64_t> recv_bytes;
  std::vector<int32_t> sent;
  std::vector<int32_t> expected;
  std::vector<int32_t> received;
};

void CheckAllToAll(Communicator& world) {
  Exchange e(world.rank(), world.size(), 0);
  world.AllToAll(e.sent.data(), e.send_bytes, e.received.data(), e.recv_bytes);
  EXPECT_EQ(e.received, e.expected);
}

// Several under way at once, waited for one by one and all at a time; more than once, as their
// number is bounded.
void CheckStartedAllToAll(Communicator& world) {
  for (int turn = 0; turn < 4; ++turn) {
    std::vector<Exchange> exchanges;
    for (int round = 0; round < 3; ++round) {
      exchanges.emplace_back(world.rank(), world.size(), round);
    }
    std::vector<int64_t> started;
    for (Exchange& e : exchanges) {
      started.push_back(
          world.StartAllToAll(e.sent.data(), e.send_bytes, e.received.data(), e.recv_bytes));
    }
    if (turn % 2 == 0) {
      world.WaitForAllToAll(started[0]);
      EXPECT_EQ(exchanges[0].received, exchanges[0].expected);
    }
    world.WaitForAllToAll(started[2]);
    for (const Exchange& e : exchanges) EXPECT_EQ(e.received, e.expected);
  }
}

void CheckAllReduceMax(Communicator& world) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> data = {static_cast<float>(world.rank()), -static_cast<float>(world.rank()),
                             world.rank() == world.size() - 1 ? infinity : 1.0f};
  world.AllReduceMax(data.data(), static_cast<int64_t>(data.size()));
  EXPECT_EQ(data, (std::vector<float>{static_cast<float>(world.size() - 1), -0.0f, infinity}));
}

// Word i is held by rank i % size.
void CheckMerge(Communicator& world) {
  std::vector<uint32_t> words(11, 0);
  std::vector<uint32_t> expected;
  for (uint32_t i = 0; i < words.size(); ++i) {
    expected.push_back(0xFF000000u + i);
    if (static_cast<int>(i) % world.size() == world.rank()) words[i] = expected[i];
  }
  world.Merge(words.data(), static_cast<int64_t>(words.size()));
  EXPECT_EQ(words, expected);
}

// Odd and even ranks part, in descending order of rank.
void CheckSplit(Communicator& world) {
  const int color = world.rank() % 2;
  const std::unique_ptr<Communicator> half = world.Split(color, -world.rank());
  std::vector<int32_t> members;
  for (int r = world.size() - 1; r >= 0; --r) {
    if (r % 2 == color) members.push_back(r);
  }
  ASSERT_EQ(half->size(), static_cast<int>(members.size()));
  EXPECT_EQ(members[half->rank()], world.rank());
  const int32_t mine = world.rank();
  std::vector<int32_t> seen(members.size());
  half->AllGather(&mine, seen.data(), std::vector<int64_t>(members.size(), kWord));
  EXPECT_EQ(seen, members);
  half->Barrier();
}

}  // namespace

void CheckCollectives(Communicator& world) {
  CheckBroadcast(world);
  CheckAllGather(world);
  CheckAllToAll(world);
  CheckStartedAllToAll(world);
  CheckAllReduceMax(world);
  CheckMerge(world);
  CheckSplit(world);
  world.Barrier();
}

}  // namespace intermix
