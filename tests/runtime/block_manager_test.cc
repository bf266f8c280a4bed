// BlockManager: blocks are never lost, taken all or not at all, and shared where the content is the
// same and nowhere else.
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
  EXPECT_FALSE(manager.Allocate({.tokens = Tokens(13)}, table));
  EXPECT_EQ(manager.num_free(), 3);
  EXPECT_TRUE(table.blocks.empty());
  ASSERT_TRUE(manager.Allocate({.tokens = Tokens(8)}, table));
  EXPECT_EQ(table.blocks.size(), 2);
  EXPECT_EQ(table.num_cached, 0);
  EXPECT_FALSE(manager.Grow(13, table));
  EXPECT_EQ(table.blocks.size(), 2);
  EXPECT_EQ(manager.num_free(), 1);
}

TEST(BlockManagerTest, GrowsOnlyPastABlockBoundary) {
  BlockManager manager(3, 4);
  BlockTable table;
  ASSERT_TRUE(manager.Allocate({.tokens = Tokens(3)}, table));
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
  ASSERT_TRUE(manager.Allocate({.tokens = Tokens(10)}, table));
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
  ASSERT_TRUE(manager.Allocate({.tokens = Tokens(4)}, table));
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
        refused += !manager.Allocate({.tokens = Tokens(random() % 20)}, table);
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

// Writes all of `tokens` into blocks of their own or of the cache; the number that hit.
int32_t Fill(BlockManager& manager, const std::vector<int32_t>& tokens, BlockTable& table,
             const std::string& salt = "") {
  EXPECT_TRUE(manager.Allocate({.tokens = tokens, .salt = salt}, table));
  const int32_t hits = table.num_cached;
  manager.MarkCached(tokens, table);
  return hits;
}

TEST(BlockManagerTest, FindsFullBlocksOfACommonPrefix) {
  BlockManager manager(20, 4);
  BlockTable first;
  EXPECT_EQ(Fill(manager, Tokens(11), first), 0);
  std::vector<int32_t> alike = Tokens(14);
  alike[9] = 99;  // in the third block
  BlockTable second;
  EXPECT_EQ(Fill(manager, alike, second), 8);
  EXPECT_EQ(second.blocks[0], first.blocks[0]);
  EXPECT_EQ(second.blocks[1], first.blocks[1]);
  EXPECT_NE(second.blocks[2], first.blocks[2]);
  EXPECT_EQ(manager.num_free(), 20 - 3 - 2);
  BlockTable third;
  EXPECT_EQ(Fill(manager, alike, third), 12) << "the second one's third block is full too";
  EXPECT_EQ(manager.num_lookup_tokens(), 11 + 14 + 14);
  EXPECT_EQ(manager.num_hit_tokens(), 8 + 12);
  manager.Free(first);
  EXPECT_EQ(manager.num_free(), 20 - 4 - 1) << "the others still use what it shared";
}

TEST(BlockManagerTest, LeavesTheLastTokenToCompute) {
  BlockManager manager(20, 4);
  BlockTable first;
  BlockTable second;
  Fill(manager, Tokens(8), first);
  EXPECT_EQ(Fill(manager, Tokens(8), second), 4);
  EXPECT_NE(second.blocks[1], first.blocks[1]);
}

TEST(BlockManagerTest, FindsNothingInTheMiddleOrUnderAnotherSalt) {
  BlockManager manager(40, 4);
  BlockTable first;
  Fill(manager, Tokens(16), first, "alice");
  const std::vector<int32_t> all = Tokens(16);
  BlockTable table;
  EXPECT_EQ(Fill(manager, {all.begin() + 4, all.end()}, table, "alice"), 0);
  for (const char* salt : {"", "bob"}) {
    BlockTable other;
    EXPECT_EQ(Fill(manager, all, other, salt), 0);
  }
  BlockTable same;
  EXPECT_EQ(Fill(manager, all, same, "alice"), 12);
}

TEST(BlockManagerTest, TakesThePrefixThatWasUnusedForLongestFirst) {
  BlockManager manager(6, 4);
  std::vector<int32_t> other = Tokens(9);
  other[0] = 77;
  BlockTable table;
  Fill(manager, Tokens(9), table);
  manager.Free(table);  // two full blocks and a partial one
  Fill(manager, other, table);
  manager.Free(table);
  EXPECT_EQ(manager.num_free(), 6);
  // Two are free that hold nothing; the third is of the older prefix.
  BlockTable big;
  ASSERT_TRUE(manager.Allocate({.tokens = std::vector<int32_t>(12, 5)}, big));
  EXPECT_EQ(Fill(manager, other, table), 8);
}

TEST(BlockManagerTest, TakesTheEndOfAPrefixBeforeItsBeginning) {
  BlockManager manager(3, 4);
  BlockTable table;
  Fill(manager, Tokens(12), table);
  manager.Free(table);
  ASSERT_TRUE(manager.Allocate({.tokens = std::vector<int32_t>(8, 5)}, table));
  manager.Free(table);
  EXPECT_EQ(Fill(manager, Tokens(12), table), 4);
}

TEST(BlockManagerTest, ReservesAndCountsIdleHitsAsTaken) {
  BlockManager manager(3, 4);
  BlockTable table;
  Fill(manager, Tokens(9), table);
  manager.Free(table);
  EXPECT_FALSE(manager.Allocate({.tokens = Tokens(9), .reserve = 1}, table));
  EXPECT_TRUE(table.blocks.empty());
  EXPECT_EQ(manager.num_free(), 3);
  EXPECT_TRUE(manager.Allocate({.tokens = Tokens(9)}, table));
  EXPECT_EQ(table.num_cached, 8);
}

TEST(BlockManagerTest, CanDoWithoutTheCache) {
  BlockManager off(20, 4, /*cache_prefixes=*/false);
  BlockManager on(20, 4);
  BlockTable a, b, c, d;
  Fill(off, Tokens(12), a);
  EXPECT_EQ(Fill(off, Tokens(12), b), 0);
  Fill(on, Tokens(12), c);
  EXPECT_TRUE(on.Allocate({.tokens = Tokens(12), .reuse = false}, d));
  EXPECT_EQ(d.num_cached, 0);
  on.MarkCached(Tokens(12), d);  // the same content a second time
  BlockTable e;
  EXPECT_EQ(Fill(on, Tokens(13), e), 12);
  EXPECT_EQ(e.blocks[2], c.blocks[2]) << "the first one is found";
}

TEST(BlockManagerTest, ForgetsPrefixes) {
  BlockManager manager(20, 4);
  BlockTable first;
  Fill(manager, Tokens(12), first);
  manager.ForgetPrefixes();
  BlockTable second;
  EXPECT_EQ(Fill(manager, Tokens(12), second), 0);
  manager.Free(first);
  manager.Free(second);
  EXPECT_EQ(manager.num_free(), 20);
  EXPECT_EQ(Fill(manager, Tokens(12), first), 8);
}

// A model of the cache that holds the tokens themselves: whatever a table claims to have cached
// must be there, however blocks are shared and taken.
TEST(BlockManagerTest, RandomUseNeverClaimsWhatIsNotThere) {
  constexpr int kBlocks = 29;
  constexpr int kBlockSize = 3;
  for (uint32_t seed = 0; seed < 5; ++seed) {
    std::mt19937 random(seed);
    BlockManager manager(kBlocks, kBlockSize);
    std::vector<int32_t> slots(kBlocks * kBlockSize, -1);
    struct Live {
      std::vector<int32_t> tokens;
      BlockTable table;
    };
    std::vector<Live> all(8);
    for (int i = 0; i < 3000; ++i) {
      Live& live = all[random() % all.size()];
      if (live.table.blocks.empty()) {
        live.tokens.resize(1 + random() % 20);
        for (int32_t& token : live.tokens) token = static_cast<int32_t>(random() % 2);
        const std::string salt(random() % 2, 's');
        if (!manager.Allocate({.tokens = live.tokens, .salt = salt}, live.table)) continue;
      } else if (random() % 3 == 0) {
        manager.Free(live.table);
        continue;
      } else {
        live.tokens.push_back(static_cast<int32_t>(random() % 2));
        if (!manager.Grow(static_cast<int64_t>(live.tokens.size()), live.table)) {
          manager.Free(live.table);
          continue;
        }
      }
      const auto slot = [&](size_t position) -> int32_t& {
        return slots[live.table.blocks[position / kBlockSize] * kBlockSize + position % kBlockSize];
      };
      for (size_t p = 0; p < live.tokens.size(); ++p) {
        if (p < live.table.num_cached) {
          ASSERT_EQ(slot(p), live.tokens[p]) << "seed " << seed << ", use " << i;
        } else {
          slot(p) = live.tokens[p];
        }
      }
      manager.MarkCached(live.tokens, live.table);
    }
    EXPECT_GT(manager.num_hit_tokens(), 500);
    for (Live& live : all) manager.Free(live.table);
    EXPECT_EQ(manager.num_free(), kBlocks);
  }
}

}  // namespace
}  // namespace intermix
