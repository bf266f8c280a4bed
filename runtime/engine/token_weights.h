// TokenWeights: the probabilities of a row of logits up to their common factor, and sums of them in
// one fixed order (numerics.md, "Invariance", rule 6): in double, 16 lanes within a block of
// tokens, blocks ascending.
//
// Owns scratch memory that is kept from row to row; use one from one thread at a time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/host_rows.h"

namespace intermix {

class TokenWeights {
 public:
  // A row's weights: e^((logit - max) / temperature), 1 for the likeliest token.
  //   logits  [vocab_size] float32, no NaN
  void Set(std::span<const float> logits, float max, float temperature);

  float operator[](int32_t id) const { return weights_[id]; }
  double total() const { return sums_.back(); }

  // The token at which the sum of the weights, by ascending id, passes `target`: in [0, total).
  int32_t TokenAt(double target) const;

  const HostRows& rows() const { return rows_; }

 private:
  static constexpr size_t kBlock = 256;

  HostRows rows_;
  std::vector<float> weights_;  // [vocab_size]
  std::vector<double> sums_;    // of blocks 0 .. b
};

}  // namespace intermix
