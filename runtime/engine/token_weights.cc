#include "runtime/engine/token_weights.h"

#include <algorithm>
#include <array>

#include "kernels/core/check.h"

namespace intermix {
namespace {

// Lane by lane, which compilers turn into vector instructions.
double SumOf(std::span<const float> block) {
  constexpr size_t kLanes = 16;
  std::array<double, kLanes> sums{};
  const size_t whole = block.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += block[i + lane];
  }
  for (size_t i = whole; i < block.size(); ++i) sums[i - whole] += block[i];
  for (size_t half = kLanes / 2; half > 0; half /= 2) {
    for (size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

}  // namespace

void TokenWeights::Set(std::span<const float> logits, float max, float temperature) {
  weights_.resize(logits.size());
  rows_.Weights(logits, max, temperature, weights_.data());
  sums_.clear();
  double sum = 0.0;
  for (size_t begin = 0; begin < weights_.size(); begin += kBlock) {
    const size_t size = std::min(kBlock, weights_.size() - begin);
    sum += SumOf(std::span(weights_).subspan(begin, size));
    sums_.push_back(sum);
  }
}

int32_t TokenWeights::TokenAt(double target) const {
  const auto block = std::ranges::upper_bound(sums_, target);
  CHECK(block != sums_.end()) << "target " << target << " of " << total();
  double sum = block == sums_.begin() ? 0.0 : *(block - 1);
  const size_t begin = static_cast<size_t>(block - sums_.begin()) * kBlock;
  const size_t end = std::min(begin + kBlock, weights_.size());
  size_t last = begin;  // one of the block has a weight: its sum passes the target
  for (size_t id = begin; id < end; ++id) {
    if (weights_[id] == 0.0f) continue;
    last = id;
    sum += static_cast<double>(weights_[id]);
    if (sum > target) break;
  }
  return static_cast<int32_t>(last);  // also where the lanes' sum is a last bit larger
}

}  // namespace intermix
