#include "runtime/tokenizer/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"

namespace intermix {

std::string StopMatcher::Add(const std::string& text, bool may_stop) {
  CHECK(!matched_.has_value());
  const size_t old_size = held_.size();
  held_ += text;
  size_t first_end = std::string::npos;
  for (const std::string& stop : stops_) {
    if (!may_stop) break;
    // The first place from which it ends behind what was there before.
    const size_t from = old_size + 1 > stop.size() ? old_size + 1 - stop.size() : 0;
    const size_t begin = held_.find(stop, from);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    const bool longer = end == first_end && stop.size() > matched_->size();
    if (end < first_end || longer) {
      first_end = end;
      matched_ = stop;
    }
  }
  if (matched_.has_value()) {
    return std::exchange(held_, std::string()).substr(0, first_end - matched_->size());
  }
  const size_t certain = held_.size() - UndecidedBytes(held_);
  std::string out = held_.substr(0, certain);
  held_.erase(0, certain);
  return out;
}

std::string StopMatcher::Flush() { return std::exchange(held_, std::string()); }

size_t StopMatcher::UndecidedBytes(const std::string& text) const {
  size_t undecided = 0;
  for (const std::string& stop : stops_) {
    for (size_t size = std::min(stop.size() - 1, text.size()); size > undecided; --size) {
      if (text.compare(text.size() - size, size, stop, 0, size) == 0) undecided = size;
    }
  }
  return undecided;
}

}  // namespace intermix
