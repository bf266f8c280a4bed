// RoutingStats: how many tokens each expert has worked on since start, from the device's counters,
// which wrap at 2^32. Update on the engine thread; read on any.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "kernels/core/tensor.h"

namespace intermix {

class RoutingStats {
 public:
  // Of `num_experts`, this rank counts those from `first_expert` on.
  RoutingStats(int64_t num_experts, int64_t first_expert)
      : first_expert_(first_expert), tokens_(num_experts) {}

  //   totals  [layers, local experts] int32 on the host: the counters now, less than 2^32 tokens
  //           after the last update; or empty
  void Update(const Tensor& totals) {
    if (totals.empty()) return;
    last_.resize(static_cast<size_t>(totals.num_elements()), 0);
    for (size_t i = 0; i < last_.size(); ++i) {
      const int32_t now = totals.data<int32_t>()[i];
      const uint32_t more = static_cast<uint32_t>(now) - static_cast<uint32_t>(last_[i]);
      const int64_t expert = first_expert_ + static_cast<int64_t>(i) % totals.cols();
      tokens_[expert].fetch_add(more, std::memory_order_relaxed);
      last_[i] = now;
    }
  }

  // [num_experts], summed over layers; zero for other ranks' experts.
  std::vector<int64_t> expert_tokens() const {
    std::vector<int64_t> counts;
    for (const std::atomic<int64_t>& t : tokens_) {
      counts.push_back(t.load(std::memory_order_relaxed));
    }
    return counts;
  }

 private:
  int64_t first_expert_;
  std::vector<std::atomic<int64_t>> tokens_;
  std::vector<int32_t> last_;
};

}  // namespace intermix
