#include "kernels/cuda/model_limits.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr ModelShape kMixtral = {
    .hidden_size = 4096, .num_heads = 32, .head_dim = 128, .num_experts = 8};

std::string Message(const ModelShape& shape) {
  const absl::Status status = CheckModelShape(shape);
  return status.ok() ? "" : std::string(status.message());
}

TEST(ModelLimitsTest, ModelsAtEveryLimitPass) {
  EXPECT_EQ(Message(kMixtral), "");
  EXPECT_EQ(Message({.hidden_size = kMaxNormWidth,
                     .num_heads = kMaxHeads,
                     .head_dim = kMaxHeadDim,
                     .num_experts = kMaxExperts,
                     .int8_cache = true}),
            "");
  EXPECT_EQ(Message({.hidden_size = 64, .num_heads = 1, .head_dim = 8}), "");
}

TEST(ModelLimitsTest, RefusalsNameTheNumberAndTheLimit) {
  ModelShape shape = kMixtral;
  shape.hidden_size = 24580;
  EXPECT_THAT(Message(shape), AllOf(HasSubstr("hidden_size"), HasSubstr("24580")));
  shape = kMixtral;
  shape.head_dim = 264;
  EXPECT_THAT(Message(shape), AllOf(HasSubstr("head_dim"), HasSubstr("256"), HasSubstr("264")));
  shape = kMixtral;
  shape.num_experts = 513;
  EXPECT_THAT(Message(shape), AllOf(HasSubstr("experts"), HasSubstr("512")));
  shape = kMixtral;
  shape.num_heads = 257;
  EXPECT_THAT(Message(shape), AllOf(HasSubstr("heads per rank"), HasSubstr("--tp")));
}

TEST(ModelLimitsTest, CacheRowsAreWholePieces) {
  ModelShape shape = kMixtral;
  shape.head_dim = 100;
  EXPECT_THAT(Message(shape), AllOf(HasSubstr("multiple of 8"), HasSubstr("--device cpu")));
  shape.head_dim = 104;
  EXPECT_EQ(Message(shape), "");
  shape.int8_cache = true;
  EXPECT_THAT(Message(shape), AllOf(HasSubstr("multiple of 16"), HasSubstr("--kv-dtype bf16")));
}

}  // namespace
}  // namespace intermix::cuda
