// BlockManager: blocks are never shared, never lost, and taken all or not at all.
#include "runtime/kv/block_manager.h"

#include <numeric>
#include <random>
#include <set>

#include "gtest/gtest.h"

namespace intermix {
namespace {

std::vector<int32_t> Tokens(int n) {
  std::vector<int32_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

TEST(BlockManagerTest, RoundsPositionsUpToBlocks) {
  const BlockManager manager(4, 16);
  EXPECT_EQ(manager.BlocksFor(0), 0);
  EXPECT_EQ(manager.BlocksFor(1), 1);
  EXPECT_EQ(manager.BlocksFor(16), 1);
  EXPECT_EQ(manager.BlocksFor(17), 2);
}

TEST(BlockManagerTest, TakesAllBlocksOrNone) {
  BlockManager manager(3, 4);
  BlockTable table;
  EXPECT_FALSE(manager.Allocate(Tokens(13), table));
  EXPECT_EQ(manager.num_free(), 3);
  EXPECT_TRUE(table.blocks.empty());
  ASSERT_TRUE(manager.Allocate(Tokens(8), table));
  EXPECT_EQ(table.blocks.size(), 2);
  EXPECT_EQ(table.num_cached, 0);
  EXPECT_FALSE(manager.Grow(13, table));
  EXPECT_EQ(table.blocks.size(), 2);
  EXPECT_EQ(manager.num_free(), 1);
}

TEST(BlockManagerTest, GrowsOnlyPastABlockBoundary) {
  BlockManager manager(3, 4);
  BlockTable table;
  ASSERT_TRUE(manager.Allocate(Tokens(3), table));
  ASSERT_TRUE(manager.Grow(4, table));
  EXPECT_EQ(table.blocks.size(), 1);
  ASSERT_TRUE(manager.Grow(5, table));
  EXPECT_EQ(table.blocks.size(), 2);
  ASSERT_TRUE(manager.Grow(2, table)) << "what it has is enough";
  EXPECT_EQ(table.blocks.size(), 2);
}

TEST(BlockManagerTest, FreeEmptiesTheTable) {
  BlockManager manager(3, 4);
  BlockTable table;
  ASSERT_TRUE(manager.Allocate(Tokens(10), table));
  manager.MarkCached(Tokens(9), table);
  EXPECT_EQ(table.num_cached, 9);
  manager.Free(table);
  EXPECT_EQ(manager.num_free(), 3);
  EXPECT_TRUE(table.blocks.empty());
  EXPECT_EQ(table.num_cached, 0);
}

TEST(BlockManagerDeathTest, RefusesABlockGivenBackTwice) {
  BlockManager manager(2, 4);
  BlockTable table;
  ASSERT_TRUE(manager.Allocate(Tokens(4), table));
  BlockTable copy = table;
  manager.Free(table);
  EXPECT_DEATH(manager.Free(copy), "given back twice");
}

TEST(BlockManagerTest, RandomUseNeverSharesOrLosesABlock) {
  constexpr int kBlocks = 37;
  for (uint32_t seed = 0; seed < 5; ++seed) {
    std::mt19937 random(seed);
    BlockManager manager(kBlocks, 3);
    std::vector<BlockTable> tables(8);
    int refused = 0;
    for (int i = 0; i < 2000; ++i) {
      BlockTable& table = tables[random() % tables.size()];
      if (random() % 3 == 0) {
        manager.Free(table);
      } else if (table.blocks.empty()) {
        refused += !manager.Allocate(Tokens(random() % 20), table);
      } else {
        refused += !manager.Grow(3 * table.blocks.size() + random() % 7, table);
      }
      std::set<int32_t> held;
      size_t count = 0;
      for (const BlockTable& t : tables) {
        held.insert(t.blocks.begin(), t.blocks.end());
        count += t.blocks.size();
      }
      ASSERT_EQ(held.size(), count) << "a block is in two tables; seed " << seed;
      ASSERT_EQ(manager.num_free() + static_cast<int>(count), kBlocks);
      if (!held.empty()) {
        ASSERT_GE(*held.begin(), 0);
        ASSERT_LT(*held.rbegin(), kBlocks);
      }
    }
    EXPECT_GT(refused, 0) << "the cache never ran out";
  }
}

}  // namespace
}  // namespace intermix
