#include "runtime/tokenizer/regex.h"

#include <pcre2.h>

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

constexpr char kSpaces[] =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f})"
    R"(\x{3000})";

// Spells \s and \S out. A \S inside a class cannot be spelled so.
absl::StatusOr<std::string> SpellSpaces(const std::string& pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        out += in_class ? std::string(kSpaces) : absl::StrCat("[", kSpaces, "]");
      } else if (escaped == 'S' && in_class) {
        return absl::InvalidArgumentError("\\S inside [] is not supported");
      } else if (escaped == 'S') {
        out += absl::StrCat("[^", kSpaces, "]");
      } else {
        out += {c, escaped};
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

template <auto kFree>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};

using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;

}  // namespace

struct Regex::Code {
  ~Code() { pcre2_code_free(code); }
  pcre2_code* code = nullptr;
};

Regex::Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}

absl::StatusOr<Regex> Regex::Compile(const std::string& pattern) {
  const absl::StatusOr<std::string> spelled = SpellSpaces(pattern);
  if (!spelled.ok()) return spelled.status();
  const auto code = std::make_shared<Code>();
  int error = 0;
  PCRE2_SIZE offset = 0;
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled->data()), spelled->size(),
                             PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  if (code->code == nullptr) {
    std::array<unsigned char, 256> message{};
    pcre2_get_error_message(error, message.data(), message.size());
    return absl::InvalidArgumentError(absl::StrCat(
        "the pattern '", pattern, "' is wrong: ", reinterpret_cast<const char*>(message.data())));
  }
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);  // where it fails, matching is slower
  return Regex(code);
}

void Regex::ForEachMatch(std::string_view text,
                         const std::function<void(size_t, size_t)>& visit) const {
  const MatchData match(pcre2_match_data_create_from_pattern(code_->code, nullptr));
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const auto match_at = [&](size_t start, uint32_t options) {
    return pcre2_match(code_->code, subject, text.size(), start, PCRE2_NO_UTF_CHECK | options,
                       match.get(), nullptr);
  };
  size_t start = 0;
  while (start < text.size()) {
    int found = match_at(start, PCRE2_NOTEMPTY);
    // What needs more stack than the compiled code has goes through the interpreter, on the heap.
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match_at(start, PCRE2_NOTEMPTY | PCRE2_NO_JIT);
    if (found < 0) return;
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
    visit(bounds[0], bounds[1]);
    start = bounds[1];
  }
}

}  // namespace intermix
