// Byte-level BPE: a text is cut into words by patterns, a word's bytes become pieces, and
// neighbours are merged, the earliest merge of the file first, the leftmost among equals. Special
// tokens are never found in text: what a user writes stays text.
#include <algorithm>
#include <array>
#include <limits>
#include <queue>
#include <unordered_map>
#include <utility>

#include "runtime/tokenizer/detokenizer.h"
#include "runtime/tokenizer/read_tokenizer.h"
#include "runtime/tokenizer/tokenizer_json.h"
#include "runtime/tokenizer/utf8.h"

namespace intermix {
namespace {

class ByteLevelTokenizer final : public Tokenizer {
 public:
  explicit ByteLevelTokenizer(TokenizerJson file) : file_(std::move(file)) {
    byte_ids_.fill(-1);
    std::vector<bool> added(file_.pieces.size(), false);
    for (const TokenizerJson::AddedToken& token : file_.added) added[token.id] = true;
    for (size_t id = 0; id < file_.pieces.size(); ++id) {
      const std::string& piece = file_.pieces[id];
      if (piece.empty() || added[id]) continue;
      ids_.emplace(piece, static_cast<int32_t>(id));
      if (piece.size() == 1) byte_ids_[static_cast<uint8_t>(piece[0])] = static_cast<int32_t>(id);
    }
    for (size_t rank = 0; rank < file_.merges.size(); ++rank) {
      const TokenizerJson::Merge& merge = file_.merges[rank];
      merges_.emplace(std::pair(merge.left, merge.right), rank);
    }
  }

  int32_t vocab_size() const override { return static_cast<int32_t>(file_.pieces.size()); }
  int32_t bos_token_id() const override { return file_.bos_id; }
  int32_t eos_token_id() const override { return -1; }  // the file does not say
  int32_t SpecialTokenId(std::string_view piece) const override {
    for (const TokenizerJson::AddedToken& token : file_.added) {
      if (token.special && token.content == piece) return token.id;
    }
    return -1;
  }
  bool adds_bos_token() const override { return file_.bos_id >= 0; }

  std::vector<int32_t> Encode(std::string_view text) const override {
    if (!IsValidUtf8(text)) return Encode(ValidUtf8(std::string(text)));
    std::vector<int32_t> ids;
    // Where each added token comes next; looked for again once that lies behind.
    std::vector<size_t> next(file_.added.size(), 0);
    for (size_t at = 0; at < text.size();) {
      const size_t found = FindAdded(text, at, next);
      const size_t begin = found < next.size() ? next[found] : text.size();
      EncodePlain(text.substr(at, begin - at), ids);
      at = begin;
      if (found == next.size()) break;
      ids.push_back(file_.added[found].id);
      at += file_.added[found].content.size();
    }
    return ids;
  }

  std::string Decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (int32_t id : ids) {
      if (id < 0 || id >= vocab_size() || file_.special[id]) continue;
      text += file_.pieces[id];
    }
    return text;
  }

 private:
  struct Symbol {
    int32_t id = 0;  // -1: became part of its left neighbour
    int32_t previous = -1;
    int32_t next = -1;
  };
  // Neighbours that may be merged, unless one of them has changed meanwhile.
  struct Candidate {
    size_t rank;
    int32_t left;
    int32_t right;

    bool operator<(const Candidate& other) const {  // the queue's top is the largest
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  struct PairHash {
    size_t operator()(const std::pair<int32_t, int32_t>& pair) const {
      const uint64_t both =
          static_cast<uint64_t>(pair.first) << 32 | static_cast<uint32_t>(pair.second);
      return static_cast<size_t>((both ^ both >> 29) * 0x9E3779B97F4A7C15u >> 7);
    }
  };

  // The added token that comes first from `at` on, the longest of those; next.size(): none.
  size_t FindAdded(std::string_view text, size_t at, std::vector<size_t>& next) const {
    size_t best = next.size();
    for (size_t i = 0; i < next.size(); ++i) {
      const TokenizerJson::AddedToken& token = file_.added[i];
      if (token.special || next[i] == std::string::npos) continue;
      if (next[i] < at || at == 0) next[i] = text.find(token.content, at);
      if (next[i] == std::string::npos) continue;
      const bool longer = best < next.size() && next[i] == next[best] &&
                          token.content.size() > file_.added[best].content.size();
      if (best == next.size() || next[i] < next[best] || longer) best = i;
    }
    return best;
  }

  void EncodePlain(std::string_view text, std::vector<int32_t>& ids) const {
    std::vector<std::string_view> words = {text};
    for (const TokenizerJson::Split& split : file_.splits) words = Cut(words, split);
    for (std::string_view word : words) EncodeWord(word, ids);
  }

  static std::vector<std::string_view> Cut(const std::vector<std::string_view>& words,
                                           const TokenizerJson::Split& split) {
    std::vector<std::string_view> cut;
    for (std::string_view word : words) {
      size_t end_of_last = 0;
      const auto add_gap = [&](size_t end) {
        if (split.keeps_gaps && end > end_of_last) {
          cut.push_back(word.substr(end_of_last, end - end_of_last));
        }
      };
      split.pattern.ForEachMatch(word, [&](size_t begin, size_t end) {
        add_gap(begin);
        cut.push_back(word.substr(begin, end - begin));
        end_of_last = end;
      });
      add_gap(word.size());
    }
    return cut;
  }

  void EncodeWord(std::string_view word, std::vector<int32_t>& ids) const {
    if (file_.ignore_merges) {
      if (const auto it = ids_.find(std::string(word)); it != ids_.end()) {
        ids.push_back(it->second);
        return;
      }
    }
    std::vector<Symbol> symbols;
    for (char c : word) {
      const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
      if (id < 0) continue;  // as the library does
      const int32_t index = static_cast<int32_t>(symbols.size());
      if (index > 0) symbols.back().next = index;
      symbols.push_back({.id = id, .previous = index - 1});
    }
    Merge(symbols);
    for (const Symbol& symbol : symbols) {
      if (symbol.id >= 0) ids.push_back(symbol.id);
    }
  }

  void Merge(std::vector<Symbol>& symbols) const {
    std::priority_queue<Candidate> queue;
    const auto add = [&](int32_t left, int32_t right) {
      if (left < 0 || right < 0) return;
      const auto it = merges_.find({symbols[left].id, symbols[right].id});
      if (it != merges_.end()) queue.push({it->second, left, right});
    };
    for (int32_t i = 1; i < std::ssize(symbols); ++i) add(i - 1, i);
    while (!queue.empty()) {
      const Candidate candidate = queue.top();
      queue.pop();
      const TokenizerJson::Merge& merge = file_.merges[candidate.rank];
      Symbol& left = symbols[candidate.left];
      Symbol& right = symbols[candidate.right];
      if (left.id != merge.left || right.id != merge.right || left.next != candidate.right) {
        continue;
      }
      left.id = merge.result;
      left.next = right.next;
      right.id = -1;
      if (left.next >= 0) symbols[left.next].previous = candidate.left;
      add(left.previous, candidate.left);
      add(candidate.left, left.next);
    }
  }

  const TokenizerJson file_;
  std::unordered_map<std::string, int32_t> ids_;  // of pieces that text can become
  std::array<int32_t, 256> byte_ids_{};           // -1: the vocabulary lacks it
  std::unordered_map<std::pair<int32_t, int32_t>, size_t, PairHash> merges_;  // to ranks
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ReadByteLevelTokenizer(std::string_view bytes,
                                                                  const std::string& path) {
  absl::StatusOr<TokenizerJson> file = ReadTokenizerJson(bytes, path);
  if (!file.ok()) return file.status();
  return std::make_unique<ByteLevelTokenizer>(*std::move(file));
}

}  // namespace intermix
