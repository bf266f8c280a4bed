// BlockManager: which KV blocks belong to which sequence, and which of them hold prefixes that
// others can use. Policy only: it hands out block numbers, the storage (kv_cache) lives on every
// rank. One manager for each data-parallel group, on rank 0.
//
// A block holds `block_size` consecutive positions of one sequence; a sequence's blocks are
// anchored at position 0, so entry i of its table holds positions [i * block_size, (i + 1) *
// block_size). What a sequence has in the cache is told by its BlockTable alone: callers start at
// num_cached after Allocate, whatever it is.
//
// A full block is remembered by all tokens up to its end, and by the sequence's salt. Sequences
// that begin alike share such blocks; shared ones are never written, because only positions from
// num_cached on are. (So several answers to one prompt share its full blocks, and each computes the
// last, partial one into a block of its own: the same bits as a copy.) A block that nobody uses
// keeps its content until it is taken: the one unused for longest first.
//
// Not thread-safe; owned by the scheduler.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/hash/hash.h"
#include "runtime/kv/free_list.h"

namespace intermix {

// One sequence's blocks. Owned by the sequence, changed by the manager only.
struct BlockTable {
  std::vector<int32_t> blocks;
  int32_t num_cached = 0;  // leading positions whose keys and values are in the cache
  uint64_t prefix = 0;     // which content the full blocks among these hold; 0: none yet
  std::string salt;
};

// What a starting (or restarting) sequence needs.
struct BlockRequest {
  std::span<const int32_t> tokens;  // all of them get a place
  std::string salt = {};            // only sequences of the same salt share blocks
  bool reuse = true;                // whether cached blocks may stand in for computing
  int32_t reserve = 0;              // blocks to leave free
};

class BlockManager {
 public:
  BlockManager(int32_t num_blocks, int32_t block_size, bool cache_prefixes = true);

  int32_t num_blocks() const { return static_cast<int32_t>(uses_.size()); }
  int32_t num_free() const { return free_.size(); }  // nobody uses them; they may hold prefixes
  int64_t num_lookup_tokens() const { return num_lookup_tokens_; }  // asked for since start
  int64_t num_hit_tokens() const { return num_hit_tokens_; }        // and found in the cache

  // Blocks that hold `positions` positions.
  static int32_t BlocksFor(int64_t positions, int32_t block_size);
  int32_t BlocksFor(int64_t positions) const { return BlocksFor(positions, block_size_); }

  // Blocks that Allocate would take from the free ones, but for the reserve.
  int32_t NumNeededBy(const BlockRequest& request) const;

  // Blocks that would become free if all of these tables were given back.
  int32_t NumFreedBy(std::span<const BlockTable* const> tables) const;

  // Fills `table`, which is empty before: with cached blocks as far as they go, but for the last
  // token, which is left to compute; then with free ones. False, and nothing taken, where too few
  // are free.
  [[nodiscard]] bool Allocate(const BlockRequest& request, BlockTable& table);

  // Makes room for positions up to `positions`. False, and nothing taken, where too few are free.
  [[nodiscard]] bool Grow(int64_t positions, BlockTable& table);

  // Whether a block that Grow takes first still holds a prefix, which it forgets.
  bool GrowingForgets(int64_t positions, const BlockTable& table) const;

  // A step has written the keys and values of these leading tokens of the sequence.
  void MarkCached(std::span<const int32_t> tokens, BlockTable& table);

  // Gives all blocks back and empties the table.
  void Free(BlockTable& table);

  // Forgets every prefix; running sequences keep what they have.
  void ForgetPrefixes();

 private:
  // The content of a full block: what stands before it, by name, and its own tokens. Compared
  // exactly: no two contents are ever taken for each other.
  struct Content {
    uint64_t before = 0;  // the name of the prefix that ends where the block begins; 0: none
    std::string salt;     // of a first block, whose `before` is 0
    std::vector<int32_t> tokens;

    friend bool operator==(const Content&, const Content&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const Content& c) {
      return H::combine(std::move(h), c.before, c.salt, c.tokens);
    }
  };
  struct Cached {
    int32_t block = 0;
    uint64_t prefix = 0;  // the name of the prefix that ends with the block
  };

  Content ContentOf(std::span<const int32_t> tokens, size_t index, uint64_t before,
                    const std::string& salt) const;
  std::vector<Cached> FindPrefix(const BlockRequest& request) const;
  int32_t NumNeededBy(const BlockRequest& request, std::span<const Cached> found) const;
  int32_t TakeFree();
  void Forget(int32_t block);

  const int32_t block_size_;
  const bool cache_prefixes_;
  FreeList free_;              // taken from the front; what holds prefixes stands at the back
  std::vector<int32_t> uses_;  // [num_blocks] tables that a block is in
  std::unordered_map<Content, Cached, absl::Hash<Content>> prefixes_;
  std::vector<const Content*> contents_;  // [num_blocks] keys of prefixes_; null: not remembered
  uint64_t num_prefixes_ = 0;             // names given since start
  int64_t num_lookup_tokens_ = 0;
  int64_t num_hit_tokens_ = 0;
};

}  // namespace intermix
