#include "runtime/engine/request_times.h"

#include <algorithm>
#include <utility>

namespace intermix {
namespace {

const std::vector<double> kShort = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                    0.25,  0.5,    1.0,   2.5,  5.0,   10.0};
const std::vector<double> kLong = {0.005, 0.01, 0.025, 0.05, 0.1,  0.25,  0.5,  1.0,
                                   2.5,   5.0,  10.0,  30.0, 60.0, 120.0, 600.0};

}  // namespace

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Histogram::Observe(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), seconds);
  counts_[static_cast<size_t>(bucket - bounds_.begin())].fetch_add(1, std::memory_order_relaxed);
  sum_seconds_.store(sum_seconds() + seconds, std::memory_order_relaxed);
}

RequestTimes::RequestTimes()
    : queue(kLong), first_token(kLong), between_tokens(kShort), whole(kLong) {}

}  // namespace intermix
