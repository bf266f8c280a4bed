// RandomCheckpoint: a checkpoint of any dimensions that is on no disk: random weights, made when
// they are asked for. Layers of one shape get the same values, each in memory of its own once the
// backend has packed them.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "runtime/checkpoint/checkpoint.h"

namespace intermix {

class RandomCheckpoint final : public Checkpoint {
 public:
  // `spec` must be valid. As in a real checkpoint, lm_head has 8 bits.
  RandomCheckpoint(const ModelConfig& config, const QuantSpec& spec)
      : config_(config), spec_(spec) {}

  const ModelConfig& config() const override { return config_; }
  std::string description() const override;
  absl::StatusOr<QuantizedWeight> LoadLinear(const std::string& name, int64_t n, int64_t k,
                                             Slice rows) const override;
  absl::StatusOr<OwnedTensor> LoadTensor(const std::string& name, int64_t n, int64_t k, Slice rows,
                                         Slice cols, DType dtype) const override;
  absl::StatusOr<DType> ExactDType(const std::string&) const override { return DType::kBF16; }

 private:
  const ModelConfig config_;
  const QuantSpec spec_;
  mutable std::mutex mutex_;  // guards what follows
  mutable std::map<std::tuple<int, int64_t, int64_t>, QuantizedWeight> made_;  // bits, rows, k
};

}  // namespace intermix
