// Rotary tables against Hugging Face transformers (tests/tools/make_goldens.py).
#include "runtime/model/rope.h"

#include <fstream>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using nlohmann::json;

json Golden() {
  std::ifstream file(TestData() + "/golden/rope.json");
  return json::parse(file, nullptr, false);
}

// A LLaMA of one head with these rotary parameters.
ModelConfig Config(const json& table) {
  const int64_t head_dim = table.at("head_dim");
  const json config = {{"architectures", {"LlamaForCausalLM"}},
                       {"vocab_size", 32},
                       {"hidden_size", head_dim},
                       {"intermediate_size", 32},
                       {"num_hidden_layers", 1},
                       {"num_attention_heads", 1},
                       {"max_position_embeddings", 131072},
                       {"rope_parameters", table.at("rope_parameters")}};
  absl::StatusOr<ModelConfig> parsed = ModelConfig::FromJson(config);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? *parsed : ModelConfig();
}

TEST(RopeTest, TablesAgreeWithTransformersForEveryScaling) {
  const json golden = Golden();
  ASSERT_TRUE(golden.is_object());
  for (const json& table : golden.at("tables")) {
    SCOPED_TRACE(table.at("rope_parameters").dump());
    const int64_t half = table.at("head_dim").get<int64_t>() / 2;
    const OwnedTensor rope = MakeRopeTable(Config(table), 256);
    ASSERT_EQ(rope.view.rows(), 256);
    ASSERT_EQ(rope.view.cols(), 2 * half);
    const auto positions = table.at("positions").get<std::vector<int64_t>>();
    for (size_t i = 0; i < positions.size(); ++i) {
      // transformers computes angles in float32: their error grows with the position.
      const double tolerance = 2e-7 * static_cast<double>(positions[i] + 1);
      const float* row = rope.view.row<float>(positions[i]);
      for (int64_t d = 0; d < half; ++d) {
        EXPECT_NEAR(row[d], table.at("cos")[i][d].get<double>(), tolerance) << positions[i];
        EXPECT_NEAR(row[half + d], table.at("sin")[i][d].get<double>(), tolerance) << positions[i];
      }
    }
  }
}

TEST(RopeTest, TheFirstPositionIsNotRotated) {
  const json golden = Golden();
  for (const json& table : golden.at("tables")) {
    const OwnedTensor rope = MakeRopeTable(Config(table), 1);
    const float* row = rope.view.row<float>(0);
    for (int64_t d = 0; d < rope.view.cols(); ++d) {
      EXPECT_EQ(row[d], d < rope.view.cols() / 2 ? 1.0f : 0.0f);
    }
  }
}

}  // namespace
}  // namespace intermix
