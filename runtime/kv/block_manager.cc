#include "runtime/kv/block_manager.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace intermix {

BlockManager::BlockManager(int32_t num_blocks, int32_t block_size, bool cache_prefixes)
    : block_size_(block_size),
      cache_prefixes_(cache_prefixes),
      free_(num_blocks),
      uses_(num_blocks, 0),
      contents_(num_blocks, nullptr) {
  CHECK_GE(num_blocks, 1);
  CHECK_GE(block_size, 1);
  for (int32_t block = 0; block < num_blocks; ++block) free_.PushBack(block);
}

int32_t BlockManager::BlocksFor(int64_t positions, int32_t block_size) {
  return static_cast<int32_t>((positions + block_size - 1) / block_size);
}

BlockManager::Content BlockManager::ContentOf(std::span<const int32_t> tokens, size_t index,
                                              uint64_t before, const std::string& salt) const {
  const size_t size = static_cast<size_t>(block_size_);
  const std::span<const int32_t> own = tokens.subspan(index * size, size);
  return {.before = before,
          .salt = index == 0 ? salt : std::string(),
          .tokens = {own.begin(), own.end()}};
}

// The cached blocks that `request` begins with, all its tokens but the last at most.
std::vector<BlockManager::Cached> BlockManager::FindPrefix(const BlockRequest& request) const {
  std::vector<Cached> found;
  if (!request.reuse) return found;
  uint64_t prefix = 0;
  while ((found.size() + 1) * static_cast<size_t>(block_size_) < request.tokens.size()) {
    const auto it = prefixes_.find(ContentOf(request.tokens, found.size(), prefix, request.salt));
    if (it == prefixes_.end()) break;
    found.push_back(it->second);
    prefix = it->second.prefix;
  }
  return found;
}

int32_t BlockManager::NumNeededBy(const BlockRequest& request,
                                  std::span<const Cached> found) const {
  const int64_t idle = std::count_if(found.begin(), found.end(),
                                     [&](const Cached& c) { return uses_[c.block] == 0; });
  const int32_t fresh = BlocksFor(std::ssize(request.tokens)) - static_cast<int32_t>(found.size());
  return fresh + static_cast<int32_t>(idle);
}

int32_t BlockManager::NumNeededBy(const BlockRequest& request) const {
  return NumNeededBy(request, FindPrefix(request));
}

int32_t BlockManager::NumFreedBy(std::span<const BlockTable* const> tables) const {
  std::unordered_map<int32_t, int32_t> uses;
  for (const BlockTable* table : tables) {
    for (const int32_t block : table->blocks) ++uses[block];
  }
  return static_cast<int32_t>(std::count_if(
      uses.begin(), uses.end(), [&](const auto& use) { return use.second == uses_[use.first]; }));
}

bool BlockManager::Allocate(const BlockRequest& request, BlockTable& table) {
  CHECK(table.blocks.empty() && table.num_cached == 0)
      << "a table of " << table.blocks.size() << " blocks is allocated anew";
  const std::vector<Cached> found = FindPrefix(request);
  const int64_t size = static_cast<int64_t>(request.tokens.size());
  if (NumNeededBy(request, found) + request.reserve > num_free()) return false;
  for (const Cached& cached : found) {
    if (uses_[cached.block]++ == 0) free_.Remove(cached.block);
    table.blocks.push_back(cached.block);
    table.prefix = cached.prefix;
  }
  table.num_cached = static_cast<int32_t>(found.size()) * block_size_;
  table.salt = request.salt;
  num_lookup_tokens_ += size;
  num_hit_tokens_ += table.num_cached;
  CHECK(Grow(size, table));
  return true;
}

bool BlockManager::Grow(int64_t positions, BlockTable& table) {
  const int32_t needed = BlocksFor(positions) - static_cast<int32_t>(table.blocks.size());
  if (needed > num_free()) return false;
  for (int32_t i = 0; i < needed; ++i) table.blocks.push_back(TakeFree());
  return true;
}

bool BlockManager::GrowingForgets(int64_t positions, const BlockTable& table) const {
  if (BlocksFor(positions) <= static_cast<int32_t>(table.blocks.size()) || num_free() == 0) {
    return false;
  }
  return contents_[free_.front()] != nullptr;
}

int32_t BlockManager::TakeFree() {
  const int32_t block = free_.PopFront();
  Forget(block);
  uses_[block] = 1;
  return block;
}

void BlockManager::Forget(int32_t block) {
  if (contents_[block] == nullptr) return;
  prefixes_.erase(prefixes_.find(*contents_[block]));
  contents_[block] = nullptr;
}

// Remembers the blocks that have become full. Where the same content is remembered already, in
// another block, this one goes on under that name without being found itself.
void BlockManager::MarkCached(std::span<const int32_t> tokens, BlockTable& table) {
  const int64_t positions = static_cast<int64_t>(tokens.size());
  CHECK_LE(BlocksFor(positions), static_cast<int64_t>(table.blocks.size()));
  CHECK_GE(positions, table.num_cached);
  const size_t first = static_cast<size_t>(table.num_cached / block_size_);
  const size_t full = static_cast<size_t>(positions / block_size_);
  table.num_cached = static_cast<int32_t>(positions);
  for (size_t i = first; i < full && cache_prefixes_; ++i) {
    const int32_t block = table.blocks[i];
    CHECK_EQ(uses_[block], 1) << "block " << block << " was written while it was shared";
    const auto [it, added] =
        prefixes_.try_emplace(ContentOf(tokens, i, table.prefix, table.salt),
                              Cached{.block = block, .prefix = num_prefixes_ + 1});
    if (added) {
      ++num_prefixes_;
      contents_[block] = &it->first;
    }
    table.prefix = it->second.prefix;
  }
}

// The end of a prefix is given back, and so taken, before its beginning.
void BlockManager::Free(BlockTable& table) {
  for (auto block = table.blocks.rbegin(); block != table.blocks.rend(); ++block) {
    CHECK_GT(uses_[*block], 0) << "block " << *block << " was given back twice";
    if (--uses_[*block] > 0) continue;
    if (contents_[*block] == nullptr) {
      free_.PushFront(*block);
    } else {
      free_.PushBack(*block);
    }
  }
  table = BlockTable();
}

void BlockManager::ForgetPrefixes() {
  prefixes_.clear();
  std::fill(contents_.begin(), contents_.end(), nullptr);
}

}  // namespace intermix
