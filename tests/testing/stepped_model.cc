#include "tests/testing/stepped_model.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <utility>

#include "comm/self_communicator.h"
#include "gtest/gtest.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/testing/test_paths.h"

namespace intermix {

std::string ReadTestFile(const std::string& path) {
  std::ifstream file(TestData() + "/" + path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

nlohmann::json ReadTestJson(const std::string& path) {
  nlohmann::json value = nlohmann::json::parse(ReadTestFile(path), nullptr, false);
  EXPECT_FALSE(value.is_discarded()) << path << " is not JSON";
  return value;
}

std::vector<int32_t> HeldOutTokens() {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      LoadTokenizer(TestData() + "/tiny-mixtral");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  if (!tokenizer.ok()) return {};
  return (*tokenizer)->Encode(ReadTestFile("text/kjv-heldout.txt"));
}

std::unique_ptr<SteppedModel> SteppedModel::Load(const std::string& directory,
                                                 const QuantSpec& quant, DType kv_dtype) {
  absl::StatusOr<std::unique_ptr<Rank>> rank =
      Rank::Create({.model_directory = std::filesystem::path(TestData()) / directory,
                    .quant = quant,
                    .kv_dtype = kv_dtype},
                   MakeSelfCommunicator());
  EXPECT_TRUE(rank.ok()) << rank.status();
  if (!rank.ok()) return nullptr;
  return std::unique_ptr<SteppedModel>(new SteppedModel(*std::move(rank)));
}

std::vector<SteppedModel::Row> SteppedModel::Step(const std::vector<int32_t>& tokens,
                                                  int32_t start) {
  ModelRunner& runner = rank_->runner();
  const int32_t block_size = runner.block_size();
  const int32_t end = start + static_cast<int32_t>(tokens.size());
  SequenceChunk chunk{.start = start, .logits = LogitsWanted::kAll, .tokens = tokens};
  chunk.blocks.resize((end + block_size - 1) / block_size);
  std::iota(chunk.blocks.begin(), chunk.blocks.end(), 0);
  const Tensor logits = runner.Step({.step = step_++, .chunks = {chunk}}).values;
  EXPECT_EQ(logits.rows(), static_cast<int64_t>(tokens.size()));
  EXPECT_EQ(logits.cols(), rank_->config().vocab_size);
  std::vector<Row> rows;
  for (int64_t i = 0; i < logits.rows(); ++i) {
    rows.emplace_back(logits.row<float>(i), logits.row<float>(i) + logits.cols());
  }
  return rows;
}

std::vector<int32_t> SteppedModel::Greedy(const std::vector<int32_t>& prompt, size_t count) {
  std::vector<int32_t> tokens;
  Row logits = Step(prompt).back();
  while (true) {
    const auto best = std::max_element(logits.begin(), logits.end());
    tokens.push_back(static_cast<int32_t>(best - logits.begin()));
    if (tokens.size() == count) return tokens;
    logits = Step({tokens.back()}, static_cast<int32_t>(prompt.size() + tokens.size() - 1))[0];
  }
}

}  // namespace intermix
