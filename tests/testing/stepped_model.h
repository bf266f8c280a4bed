// SteppedModel: a whole model on one rank, stepped by hand, as tests of models need it.
// Used by one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/engine/rank.h"

namespace intermix {

// A file of tests/data, whole. Fails the test and returns nothing where there is none.
std::string ReadTestFile(const std::string& path);
nlohmann::json ReadTestJson(const std::string& path);

// tests/data/text/kjv-heldout.txt as tiny-mixtral's tokenizer cuts it, without BOS.
std::vector<int32_t> HeldOutTokens();

class SteppedModel {
 public:
  using Row = std::vector<float>;  // the logits of one position, [vocabulary]

  // A directory of tests/data, or an absolute path. Fails the test and returns null where it does
  // not load.
  static std::unique_ptr<SteppedModel> Load(const std::string& directory,
                                            const QuantSpec& quant = {.scheme = Scheme::kNone},
                                            DType kv_dtype = DType::kBF16);

  ModelRunner& runner() { return rank_->runner(); }

  // Logits of all of `tokens`, which stand at positions start, start + 1, ... of the one sequence.
  std::vector<Row> Step(const std::vector<int32_t>& tokens, int32_t start = 0);

  // Continues `prompt` by `count` tokens, each the likeliest.
  std::vector<int32_t> Greedy(const std::vector<int32_t>& prompt, size_t count);

 private:
  explicit SteppedModel(std::unique_ptr<Rank> rank) : rank_(std::move(rank)) {}

  std::unique_ptr<Rank> rank_;
  int64_t step_ = 0;
};

}  // namespace intermix
