// The front: prompts to tokens, messages to values.
#include "runtime/rpc/front.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// One token for each byte: 'a' is 97.
class ByteTokenizer final : public Tokenizer {
 public:
  int32_t vocab_size() const override { return 259; }
  int32_t bos_token_id() const override { return 256; }
  int32_t eos_token_id() const override { return 257; }
  std::vector<int32_t> Encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(static_cast<uint8_t>(c));
    return ids;
  }
  std::string Decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (int32_t id : ids) {
      if (id < 256) text += static_cast<char>(id);
    }
    return text;
  }
};

class FrontTest : public ::testing::Test {
 protected:
  ByteTokenizer tokenizer_;
  FrontModel model_ = FrontModel::Make(ModelConfig(), tokenizer_);
};

TEST_F(FrontTest, TheConfigsSpecialTokensComeFirst) {
  EXPECT_EQ(model_.bos_token_id, 256);
  EXPECT_THAT(model_.eos_token_ids, ElementsAre(257));
  ModelConfig config;
  config.bos_token_id = 5;
  config.eos_token_ids = {6, 7};
  const FrontModel other = FrontModel::Make(config, tokenizer_);
  EXPECT_EQ(other.bos_token_id, 5);
  EXPECT_THAT(other.eos_token_ids, ElementsAre(6, 7));
}

TEST_F(FrontTest, EncodesPrompts) {
  EXPECT_THAT(*EncodePrompt(model_, "ab", true), ElementsAre(256, 97, 98));
  EXPECT_THAT(*EncodePrompt(model_, "ab", false), ElementsAre(97, 98));
  EXPECT_THAT(*EncodePrompt(model_, "", true), ElementsAre(256));
  model_.bos_token_id = -1;
  EXPECT_THAT(*EncodePrompt(model_, "a", true), ElementsAre(97));
  EXPECT_FALSE(EncodePrompt(model_, "", true).ok());
}

TEST_F(FrontTest, RefusesTextThatIsTooLongOrNoUtf8) {
  model_.max_prompt_bytes = 3;
  EXPECT_TRUE(EncodePrompt(model_, "abc", true).ok());
  for (const std::string bad : {"abcd", "\xC3", "a\xED\xA0\x80"}) {
    const auto ids = EncodePrompt(model_, bad, true);
    EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr("text"));
  }
}

TEST_F(FrontTest, UnsetFieldsTakeTheDefaultsThatTheProtoNames) {
  v1::GenerateRequest proto;
  proto.set_text("a");
  const auto request = FromProto(proto, model_);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->prompt, ElementsAre(256, 97));
  EXPECT_EQ(request->sampling.temperature, 0.0f);
  EXPECT_EQ(request->sampling.top_k, 0);
  EXPECT_EQ(request->sampling.top_p, 1.0f);
  EXPECT_EQ(request->sampling.max_tokens, 128);
  EXPECT_THAT(request->sampling.stop_token_ids, ElementsAre(257)) << "the model's EOS";
  EXPECT_NE(FromProto(proto, model_)->sampling.seed, request->sampling.seed) << "drawn each time";
}

TEST_F(FrontTest, SetFieldsArrive) {
  v1::GenerateRequest proto;
  proto.mutable_token_ids()->add_ids(9);
  v1::SamplingParams* sampling = proto.mutable_sampling();
  sampling->set_temperature(0.5f);
  sampling->set_top_k(3);
  sampling->set_top_p(0.25f);
  sampling->set_seed(0);  // not unset
  sampling->set_max_tokens(11);
  sampling->set_ignore_eos(true);
  sampling->add_stop_token_ids(4);
  const auto request = FromProto(proto, model_);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->prompt, ElementsAre(9)) << "no BOS before token ids";
  EXPECT_EQ(request->sampling.temperature, 0.5f);
  EXPECT_EQ(request->sampling.top_k, 3);
  EXPECT_EQ(request->sampling.top_p, 0.25f);
  EXPECT_EQ(request->sampling.seed, 0);
  EXPECT_EQ(request->sampling.max_tokens, 11);
  EXPECT_THAT(request->sampling.stop_token_ids, ElementsAre(4));
}

TEST_F(FrontTest, StatusesCrossTheWire) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  const grpc::Status echo = ToGrpc(absl::InvalidArgumentError(std::string(100000, 'a')));
  EXPECT_LT(echo.error_message().size() + echo.error_details().size(), 8192) << "a client's limit";
  EXPECT_EQ(ToGrpc(absl::ResourceExhaustedError("")).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ToGrpc(absl::DeadlineExceededError("")).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(FrontTest, DurationsCrossTheWire) {
  for (const absl::Duration d : {absl::ZeroDuration(), absl::Milliseconds(1750),
                                 absl::Nanoseconds(999999999), absl::Hours(30)}) {
    EXPECT_EQ(DurationFromProto(DurationToProto(d)), d);
  }
  EXPECT_EQ(DurationToProto(absl::Milliseconds(1750)).seconds(), 1);
  EXPECT_EQ(DurationToProto(absl::Milliseconds(1750)).nanos(), 750000000);
}

}  // namespace
}  // namespace intermix
