#include "runtime/kv/block_manager.h"

#include "kernels/core/check.h"

namespace intermix {

BlockManager::BlockManager(int32_t num_blocks, int32_t block_size)
    : num_blocks_(num_blocks), block_size_(block_size), taken_(num_blocks, false) {
  CHECK_GE(num_blocks, 1);
  CHECK_GE(block_size, 1);
  free_.reserve(num_blocks);
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t BlockManager::BlocksFor(int64_t positions, int32_t block_size) {
  return static_cast<int32_t>((positions + block_size - 1) / block_size);
}

bool BlockManager::Allocate(std::span<const int32_t> tokens, BlockTable& table) {
  CHECK(table.blocks.empty() && table.num_cached == 0)
      << "a table of " << table.blocks.size() << " blocks is allocated anew";
  return Grow(static_cast<int64_t>(tokens.size()), table);
}

bool BlockManager::Grow(int64_t positions, BlockTable& table) {
  const int32_t needed = BlocksFor(positions) - static_cast<int32_t>(table.blocks.size());
  if (needed > num_free()) return false;
  for (int32_t i = 0; i < needed; ++i) {
    const int32_t block = free_.back();
    free_.pop_back();
    taken_[block] = true;
    table.blocks.push_back(block);
  }
  return true;
}

void BlockManager::MarkCached(std::span<const int32_t> tokens, BlockTable& table) {
  const int64_t positions = static_cast<int64_t>(tokens.size());
  CHECK_LE(BlocksFor(positions), static_cast<int64_t>(table.blocks.size()));
  CHECK_GE(positions, table.num_cached);
  table.num_cached = static_cast<int32_t>(positions);
}

void BlockManager::Free(BlockTable& table) {
  for (auto block = table.blocks.rbegin(); block != table.blocks.rend(); ++block) {
    CHECK(taken_[*block]) << "block " << *block << " was given back twice";
    taken_[*block] = false;
    free_.push_back(*block);
  }
  table = BlockTable();
}

}  // namespace intermix
