#include "runtime/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/byte_level.h"

namespace intermix {
namespace {

using nlohmann::json;

constexpr int32_t kMaxId = 1 << 24;
// Of the ByteLevel pre-tokenizer, which is GPT-2's.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// A member of an object; null where there is none.
const json& Get(const json& object, const char* key) {
  static const json none;  // constant
  if (!object.is_object()) return none;
  const auto it = object.find(key);
  return it == object.end() ? none : *it;
}

std::string Text(const json& value) { return value.is_string() ? value.get<std::string>() : ""; }
bool True(const json& value) { return value.is_boolean() && value.get<bool>(); }

// An id of the vocabulary, or -1.
int32_t Id(const json& value) {
  if (!value.is_number_integer()) return -1;
  const int64_t id = value.get<int64_t>();
  return id >= 0 && id < kMaxId ? static_cast<int32_t>(id) : -1;
}

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  absl::StatusOr<TokenizerJson> Read(std::string_view bytes) {
    const json root = json::parse(bytes, nullptr, /*allow_exceptions=*/false);
    if (!root.is_object()) return Wrong("is not JSON");
    const json& model = Get(root, "model");
    if (Text(Get(model, "type")) != "BPE" || True(Get(model, "byte_fallback"))) {
      return Wrong("holds no byte-level BPE model; put the model's tokenizer.model beside it");
    }
    const json& normalizer = Get(root, "normalizer");
    if (!normalizer.is_null()) {
      return Wrong(absl::StrCat("has the normalizer ", Text(Get(normalizer, "type")),
                                "; only those without one are supported"));
    }
    out_.ignore_merges = True(Get(model, "ignore_merges"));
    if (absl::Status s = ReadVocabulary(Get(model, "vocab")); !s.ok()) return s;
    if (absl::Status s = ReadMerges(Get(model, "merges")); !s.ok()) return s;
    if (absl::Status s = ReadPreTokenizer(Get(root, "pre_tokenizer")); !s.ok()) return s;
    if (!byte_level_) return Wrong("has no ByteLevel pre-tokenizer");
    if (absl::Status s = ReadAddedTokens(Get(root, "added_tokens")); !s.ok()) return s;
    ReadPostProcessor(Get(root, "post_processor"));
    return std::move(out_);
  }

 private:
  absl::Status Wrong(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(path_, " ", what));
  }

  void SetPiece(int32_t id, std::string bytes, bool special) {
    const size_t size = std::max(out_.pieces.size(), static_cast<size_t>(id) + 1);
    out_.pieces.resize(size);
    out_.special.resize(size, false);
    out_.pieces[id] = std::move(bytes);
    out_.special[id] = special;
  }

  absl::Status ReadVocabulary(const json& vocab) {
    if (!vocab.is_object()) return Wrong("has no vocab");
    for (const auto& [piece, value] : vocab.items()) {
      const int32_t id = Id(value);
      if (id < 0) return Wrong(absl::StrCat("gives the piece '", piece, "' no legal id"));
      ids_[piece] = id;
      // An added token may stand here too, spelled as it is; it is read again below.
      SetPiece(id, BytesOfPiece(piece).value_or(piece), false);
    }
    return absl::OkStatus();
  }

  // "left right", or ["left", "right"].
  absl::Status ReadMerges(const json& merges) {
    if (!merges.is_array()) return Wrong("has no merges");
    for (const json& merge : merges) {
      std::string left;
      std::string right;
      if (merge.is_array() && merge.size() == 2) {
        left = Text(merge[0]);
        right = Text(merge[1]);
      } else {
        const std::string both = Text(merge);
        const size_t space = both.find(' ');
        left = both.substr(0, space);
        if (space != std::string::npos) right = both.substr(space + 1);
      }
      const auto l = ids_.find(left);
      const auto r = ids_.find(right);
      const auto result = ids_.find(left + right);
      if (l == ids_.end() || r == ids_.end() || result == ids_.end()) {
        return Wrong(absl::StrCat("merges '", left, "' and '", right,
                                  "', which are not all pieces of its vocabulary"));
      }
      out_.merges.push_back({.left = l->second, .right = r->second, .result = result->second});
    }
    return absl::OkStatus();
  }

  absl::Status AddSplit(const std::string& pattern, bool keeps_gaps) {
    absl::StatusOr<Regex> regex = Regex::Compile(pattern);
    if (!regex.ok()) return Wrong(absl::StrCat(": ", std::string(regex.status().message())));
    out_.splits.push_back({.pattern = *std::move(regex), .keeps_gaps = keeps_gaps});
    return absl::OkStatus();
  }

  absl::Status ReadPreTokenizer(const json& step) {
    const std::string type = Text(Get(step, "type"));
    if (type == "Sequence") {
      for (const json& inner : Get(step, "pretokenizers")) {
        if (absl::Status s = ReadPreTokenizer(inner); !s.ok()) return s;
      }
      return absl::OkStatus();
    }
    if (type == "ByteLevel") {
      if (True(Get(step, "add_prefix_space"))) return Wrong("adds a space before words");
      byte_level_ = true;
      const json& use_regex = Get(step, "use_regex");
      return use_regex.is_null() || True(use_regex) ? AddSplit(kGpt2Pattern, true)
                                                    : absl::OkStatus();
    }
    if (type == "Digits") {
      return AddSplit(True(Get(step, "individual_digits")) ? R"(\p{N})" : R"(\p{N}+)", true);
    }
    const std::string pattern = Text(Get(Get(step, "pattern"), "Regex"));
    const std::string behavior = Text(Get(step, "behavior"));
    const bool invert = True(Get(step, "invert"));
    if (type == "Split" && !pattern.empty() && behavior == "Isolated") {
      return AddSplit(pattern, true);  // inverted too: the same cuts
    }
    if (type == "Split" && !pattern.empty() && behavior == "Removed" && invert) {
      return AddSplit(pattern, false);
    }
    return Wrong(absl::StrCat("has a pre-tokenizer that is not supported: ", type, " ", behavior));
  }

  absl::Status ReadAddedTokens(const json& tokens) {
    if (!tokens.is_array()) return absl::OkStatus();
    for (const json& token : tokens) {
      const int32_t id = Id(Get(token, "id"));
      const std::string content = Text(Get(token, "content"));
      if (id < 0 || content.empty()) return Wrong("has an added token without id or content");
      const bool special = True(Get(token, "special"));
      SetPiece(id, content, special);
      out_.added.push_back({.id = id, .content = content, .special = special});
    }
    return absl::OkStatus();
  }

  // TemplateProcessing that begins with a special token names the BOS token.
  void ReadPostProcessor(const json& step) {
    const std::string type = Text(Get(step, "type"));
    if (type == "Sequence" && Get(step, "processors").is_array()) {
      for (const json& inner : Get(step, "processors")) ReadPostProcessor(inner);
    }
    const json& single = Get(step, "single");
    if (type != "TemplateProcessing" || !single.is_array() || single.empty()) return;
    const std::string first = Text(Get(Get(single[0], "SpecialToken"), "id"));
    for (const TokenizerJson::AddedToken& token : out_.added) {
      if (token.content == first) out_.bos_id = token.id;
    }
  }

  const std::string& path_;
  TokenizerJson out_;
  std::unordered_map<std::string, int32_t> ids_;  // by the spelling in the file
  bool byte_level_ = false;
};

}  // namespace

absl::StatusOr<TokenizerJson> ReadTokenizerJson(std::string_view json, const std::string& path) {
  return Reader(path).Read(json);
}

}  // namespace intermix
