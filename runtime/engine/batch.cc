#include "runtime/engine/batch.h"

#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/operands.h"

namespace intermix {
namespace {

// The flat form: kHeaderWords words, then for each chunk kChunkWords words, its tokens, its blocks.
//   header  magic, total words, step (low half), step (high half), stop, likeliest,
//           number of chunks
//   chunk   dp_rank, start, logits, number of tokens, number of blocks
constexpr int32_t kMagic = 0x31425849;  // "IXB1" in memory, little-endian
constexpr size_t kHeaderWords = 7;
constexpr size_t kChunkWords = 5;

absl::Status Corrupt(const std::string& what) {
  return absl::DataLossError(
      absl::StrCat("a serialised batch is corrupt: ", what, "; all ranks must run the same build"));
}

// The chunk whose words start at `*at`; advances `*at` behind it.
absl::Status ParseChunk(std::span<const int32_t> words, size_t* at, SequenceChunk* chunk) {
  if (words.size() - *at < kChunkWords) return Corrupt("a chunk's header is cut off");
  const std::span<const int32_t> header = words.subspan(*at, kChunkWords);
  const int32_t start = header[1];
  const int32_t logits = header[2];
  const int32_t num_tokens = header[3];
  const int32_t num_blocks = header[4];
  if (header[0] < 0) return Corrupt(absl::StrCat("a chunk's dp_rank is ", header[0]));
  if (logits < 0 || logits > static_cast<int32_t>(LogitsWanted::kAll)) {
    return Corrupt(absl::StrCat("a chunk's logits field is ", logits));
  }
  if (num_tokens < 1 || num_blocks < 0) {
    return Corrupt(absl::StrCat("a chunk has ", num_tokens, " tokens and ", num_blocks, " blocks"));
  }
  if (start < 0 || start > std::numeric_limits<int32_t>::max() - num_tokens) {
    return Corrupt(absl::StrCat("a chunk of ", num_tokens, " tokens starts at ", start));
  }
  *at += kChunkWords;
  if (words.size() - *at < static_cast<size_t>(num_tokens) + static_cast<size_t>(num_blocks)) {
    return Corrupt(
        absl::StrCat("a chunk of ", num_tokens, " tokens and ", num_blocks, " blocks is cut off"));
  }
  const auto tokens = words.begin() + static_cast<std::ptrdiff_t>(*at);
  *chunk = {.dp_rank = header[0],
            .start = start,
            .logits = static_cast<LogitsWanted>(logits),
            .tokens = {tokens, tokens + num_tokens},
            .blocks = {tokens + num_tokens, tokens + num_tokens + num_blocks}};
  *at += static_cast<size_t>(num_tokens) + static_cast<size_t>(num_blocks);
  return absl::OkStatus();
}

}  // namespace

int64_t Batch::num_tokens() const {
  int64_t count = 0;
  for (const SequenceChunk& chunk : chunks) count += static_cast<int64_t>(chunk.tokens.size());
  return count;
}

int64_t Batch::num_logits_rows() const {
  int64_t count = 0;
  for (const SequenceChunk& chunk : chunks) count += chunk.num_logits_rows();
  return count;
}

std::vector<int32_t> Batch::Serialize() const {
  size_t size = kHeaderWords;
  for (const SequenceChunk& chunk : chunks) {
    size += kChunkWords + chunk.tokens.size() + chunk.blocks.size();
  }
  std::vector<int32_t> words;
  words.reserve(size);
  const uint64_t step_bits = static_cast<uint64_t>(step);
  words.assign({kMagic, static_cast<int32_t>(size), static_cast<int32_t>(step_bits),
                static_cast<int32_t>(step_bits >> 32), stop ? 1 : 0, likeliest,
                static_cast<int32_t>(chunks.size())});
  for (const SequenceChunk& chunk : chunks) {
    words.insert(words.end(), {chunk.dp_rank, chunk.start, static_cast<int32_t>(chunk.logits),
                               static_cast<int32_t>(chunk.tokens.size()),
                               static_cast<int32_t>(chunk.blocks.size())});
    words.insert(words.end(), chunk.tokens.begin(), chunk.tokens.end());
    words.insert(words.end(), chunk.blocks.begin(), chunk.blocks.end());
  }
  return words;
}

absl::StatusOr<Batch> Batch::Deserialize(std::span<const int32_t> words) {
  if (words.size() < kHeaderWords) {
    return Corrupt(absl::StrCat(words.size(), " words are less than a header"));
  }
  if (words[0] != kMagic) return Corrupt("it does not start with the magic number");
  if (words[1] < 0 || static_cast<size_t>(words[1]) != words.size()) {
    return Corrupt(absl::StrCat("it has ", words.size(), " words and claims ", words[1]));
  }
  if (words[4] != 0 && words[4] != 1) return Corrupt(absl::StrCat("its stop flag is ", words[4]));
  if (words[5] < 0 || words[5] > kMaxTopK) {
    return Corrupt(absl::StrCat("it wants the ", words[5], " likeliest tokens"));
  }
  if (words[6] < 0) return Corrupt(absl::StrCat("it claims ", words[6], " chunks"));
  Batch batch;
  batch.step = static_cast<int64_t>(static_cast<uint64_t>(static_cast<uint32_t>(words[2])) |
                                    static_cast<uint64_t>(static_cast<uint32_t>(words[3])) << 32);
  batch.stop = words[4] == 1;
  batch.likeliest = words[5];
  size_t at = kHeaderWords;
  for (int32_t i = 0; i < words[6]; ++i) {
    SequenceChunk chunk;
    if (absl::Status s = ParseChunk(words, &at, &chunk); !s.ok()) return s;
    batch.chunks.push_back(std::move(chunk));
  }
  if (at != words.size()) {
    return Corrupt(absl::StrCat(words.size() - at, " words follow its last chunk"));
  }
  return batch;
}

}  // namespace intermix
