// BlockManager: which KV blocks belong to which sequence. Policy only: it hands out block numbers,
// the storage (kv_cache) lives on every rank. One manager for each data-parallel group, on rank 0.
//
// A block holds `block_size` consecutive positions of one sequence; a sequence's blocks are
// anchored at position 0, so entry i of its table holds positions [i * block_size, (i + 1) *
// block_size). What a sequence has in the cache is told by its BlockTable alone: callers start at
// num_cached after Allocate, whatever it is, so that a prefix found in the cache needs no change
// outside this file.
//
// Not thread-safe; owned by the scheduler.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace intermix {

// One sequence's blocks. Owned by the sequence, changed by the manager only.
struct BlockTable {
  std::vector<int32_t> blocks;
  int32_t num_cached = 0;  // leading positions whose keys and values are in the cache
};

class BlockManager {
 public:
  BlockManager(int32_t num_blocks, int32_t block_size);

  int32_t num_blocks() const { return num_blocks_; }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }

  // Blocks that hold `positions` positions.
  static int32_t BlocksFor(int64_t positions, int32_t block_size);
  int32_t BlocksFor(int64_t positions) const { return BlocksFor(positions, block_size_); }

  // Takes blocks for every one of a starting (or restarting) sequence's tokens; `table` is empty
  // before. False, and nothing taken, where too few are free.
  [[nodiscard]] bool Allocate(std::span<const int32_t> tokens, BlockTable& table);

  // Makes room for positions up to `positions`. False, and nothing taken, where too few are free.
  [[nodiscard]] bool Grow(int64_t positions, BlockTable& table);

  // A step has written the keys and values of these leading tokens of the sequence.
  void MarkCached(std::span<const int32_t> tokens, BlockTable& table);

  // Gives all blocks back and empties the table.
  void Free(BlockTable& table);

 private:
  int32_t num_blocks_;
  int32_t block_size_;
  std::vector<int32_t> free_;  // a stack: the block given back last is taken first
  std::vector<bool> taken_;    // [num_blocks]; guards against a block given back twice
};

}  // namespace intermix
