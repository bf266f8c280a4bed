// Regex: the regular expressions of tokenizer files, through PCRE2 with its just-in-time compiler.
// `\s` and `\S` mean Unicode's White_Space, as in the engines that those files were written for.
// Immutable; any thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace intermix {

class Regex {
 public:
  //   INVALID_ARGUMENT: not a pattern; says where and why.
  static absl::StatusOr<Regex> Compile(const std::string& pattern);

  // Calls `visit` with the bounds of each match, from left to right, none of them empty. `text` is
  // valid UTF-8. Where a pattern takes too long, what is left of the text does not match.
  void ForEachMatch(std::string_view text,
                    const std::function<void(size_t begin, size_t end)>& visit) const;

 private:
  struct Code;  // PCRE2's
  explicit Regex(std::shared_ptr<const Code> code);

  std::shared_ptr<const Code> code_;
};

}  // namespace intermix
