#include "runtime/bench/random_checkpoint.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/bench/random_weight.h"

namespace intermix {

std::string RandomCheckpoint::description() const {
  return absl::StrCat("random ", FormatOf(spec_, spec_.bits, config_.hidden_size).ToString());
}

absl::StatusOr<QuantizedWeight> RandomCheckpoint::LoadLinear(const std::string& name, int64_t,
                                                             int64_t k, Slice rows) const {
  const int bits = name == "lm_head" ? 8 : spec_.bits;
  const WeightFormat format = FormatOf(spec_, bits, k);
  if (k % format.group_size != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, " has ", k, " in-features, which groups of ", format.group_size, " do not divide"));
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto key = std::tuple(bits, rows.size(), k);
  auto at = made_.find(key);
  if (at == made_.end()) {
    at = made_.emplace(key, MakeRandomWeight(format, rows.size(), k, made_.size() + 1)).first;
  }
  return at->second;
}

absl::StatusOr<OwnedTensor> RandomCheckpoint::LoadTensor(const std::string& name, int64_t n,
                                                         int64_t k, Slice rows, Slice cols,
                                                         DType dtype) const {
  if (absl::StrContains(name, "norm")) {
    OwnedTensor ones = OwnedTensor::Host(DType::kF32, {cols.size()});
    std::fill_n(ones.view.data<float>(), cols.size(), 1.0f);
    return ones;
  }
  // A vector has n = 1 and is one row.
  const int64_t height = n == 1 ? 1 : rows.size();
  // Embeddings outweigh what layers add to them. Else all tokens look alike after a few layers and
  // choose the same experts, which a trained router does not do.
  constexpr double kEmbedding = 8.0;
  const double stddev =
      absl::StrContains(name, "embed") ? kEmbedding : 1.0 / std::sqrt(static_cast<double>(k));
  return RandomValues(dtype, height, cols.size(), stddev, std::hash<std::string>()(name));
}

}  // namespace intermix
