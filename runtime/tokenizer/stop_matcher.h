// StopMatcher: looks for stop strings in a stream of text. Text that may be the beginning of one is
// held back until that is decided, so a stop string is found wherever the text is cut, and
// no part of it gets out.
//
// What is found depends on the text and on which parts may stop it, never on where it is cut: the
// stop string that ends first; of several that end there, the longest. One stream each; not
// thread-safe.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace intermix {

class StopMatcher {
 public:
  // `stops` are not empty strings.
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // The text that may go out now that `text` has come; after a match, what stood before it. A
  // stop string that ends in `text` counts only where `may_stop` is set. Nothing is added after a
  // match.
  std::string Add(const std::string& text, bool may_stop);

  // The end of the stream: what was held back.
  std::string Flush();

  // Which stop string was found.
  const std::optional<std::string>& matched() const { return matched_; }

 private:
  // Bytes at the end of `text` that may be the beginning of a stop string.
  size_t UndecidedBytes(const std::string& text) const;

  std::vector<std::string> stops_;
  std::string held_;  // no stop string ends in it that counts
  std::optional<std::string> matched_;
};

}  // namespace intermix
