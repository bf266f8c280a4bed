// How long requests wait and take, as histograms that a monitor reads while the engine adds to
// them.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace intermix {

// Counts durations by buckets. Observe from one thread at a time; read from any.
class Histogram {
 public:
  // `bounds` are the buckets' upper ends in seconds, ascending; one more takes the rest.
  explicit Histogram(std::vector<double> bounds);

  void Observe(absl::Duration duration);

  const std::vector<double>& bounds() const { return bounds_; }
  // How many fell into bucket `index`, of bounds().size() + 1.
  int64_t count(size_t index) const { return counts_[index].load(std::memory_order_relaxed); }
  double sum_seconds() const { return sum_seconds_.load(std::memory_order_relaxed); }

 private:
  std::vector<double> bounds_;
  std::vector<std::atomic<int64_t>> counts_;
  std::atomic<double> sum_seconds_{0.0};
};

struct RequestTimes {
  RequestTimes();

  Histogram queue;           // from submission to the first step
  Histogram first_token;     // from submission to the first token
  Histogram between_tokens;  // from one token to the next
  Histogram whole;           // from submission to the end, however it ended
};

}  // namespace intermix
