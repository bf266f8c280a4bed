#include "launch/batch_lines.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

TEST(BatchLinesTest, AStringIsAPrompt) {
  RequestOptions defaults;
  defaults.request.mutable_sampling()->set_max_tokens(7);
  const auto request = ParseBatchLine(R"("And it \"came\"")", defaults);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->text(), "And it \"came\"");
  EXPECT_EQ(request->sampling().max_tokens(), 7);
}

TEST(BatchLinesTest, AnObjectHasTheFieldsOfARequest) {
  RequestOptions defaults;
  defaults.request.mutable_sampling()->set_max_tokens(7);
  defaults.request.mutable_sampling()->add_stop("x");
  const auto request = ParseBatchLine(
      R"({"id": "a", "prompt": "And", "sampling": {"max_tokens": 3, "temperature": 0.5}})",
      defaults);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->request_id(), "a");
  EXPECT_EQ(request->text(), "And");
  EXPECT_EQ(request->sampling().max_tokens(), 3);
  EXPECT_EQ(request->sampling().temperature(), 0.5F);
  EXPECT_EQ(request->sampling().stop(0), "x");
}

TEST(BatchLinesTest, ChatMakesTextsMessagesAndLeavesChatsAlone) {
  RequestOptions defaults;
  defaults.chat = true;
  defaults.system = "Be kind.";
  const auto text = ParseBatchLine(R"("Who?")", defaults);
  ASSERT_TRUE(text.ok()) << text.status();
  ASSERT_EQ(text->chat().messages_size(), 2);
  EXPECT_EQ(text->chat().messages(0).content(), "Be kind.");
  EXPECT_EQ(text->chat().messages(1).content(), "Who?");
  const auto chat =
      ParseBatchLine(R"({"chat": {"messages": [{"role": "user", "content": "Hi"}]}})", defaults);
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->chat().messages_size(), 1);
}

TEST(BatchLinesTest, OtherLinesAreRefusedInASentence) {
  for (const char* line :
       {"And it came", "7", "[\"a\"]", "{\"prompt\": ", "null", "{\"a\": \xFF}"}) {
    EXPECT_THAT(std::string(ParseBatchLine(line, {}).status().message()),
                HasSubstr("neither a JSON string nor a JSON object"))
        << line;
  }
  for (const char* line : {R"({"promt": "a"})", R"({"sampling": {"max_tokens": "many"}})"}) {
    EXPECT_THAT(std::string(ParseBatchLine(line, {}).status().message()),
                HasSubstr("not a GenerateRequest"))
        << line;
  }
}

v1::GenerateResponse Text(uint32_t index, const std::string& text) {
  v1::GenerateResponse response;
  response.mutable_delta()->set_index(index);
  response.mutable_delta()->set_text(text);
  return response;
}

v1::GenerateResponse End(uint32_t index, uint32_t tokens) {
  v1::GenerateResponse response;
  v1::Completion* completion = response.mutable_completion();
  completion->set_index(index);
  completion->set_finish_reason(v1::FINISH_REASON_LENGTH);
  completion->set_seed(5);
  completion->mutable_usage()->set_prompt_tokens(3);
  completion->mutable_usage()->set_completion_tokens(tokens);
  return response;
}

TEST(BatchLinesTest, AnAnswerIsOneLine) {
  v1::GenerateRequest request;
  request.set_request_id("a");
  BatchAnswer answer;
  EXPECT_TRUE(answer.empty());
  answer.Take(Text(0, "one\n"));
  answer.Take(Text(0, "two"));
  answer.Take(End(0, 2));
  EXPECT_FALSE(answer.empty());
  EXPECT_EQ(answer.Line(4, request, grpc::Status::OK),
            R"({"index":4,"id":"a","text":"one\ntwo","finish_reason":"length","seed":5,)"
            R"("usage":{"prompt_tokens":3,"completion_tokens":2}})");
}

TEST(BatchLinesTest, AStopIsReported) {
  BatchAnswer answer;
  v1::GenerateResponse end = End(0, 1);
  end.mutable_completion()->set_finish_reason(v1::FINISH_REASON_STOP);
  end.mutable_completion()->set_matched_stop_text("\n\n");
  answer.Take(end);
  EXPECT_THAT(answer.Line(0, {}, grpc::Status::OK),
              HasSubstr(R"("text":"","finish_reason":"stop","matched_stop":"\n\n")"));
}

TEST(BatchLinesTest, SeveralAnswersAreChoices) {
  BatchAnswer answer;
  answer.Take(Text(1, "b"));
  answer.Take(Text(0, "a"));
  answer.Take(End(1, 1));
  answer.Take(End(0, 1));
  EXPECT_EQ(answer.Line(0, {}, grpc::Status::OK),
            R"({"index":0,"choices":[{"text":"a","finish_reason":"length","seed":5},)"
            R"({"text":"b","finish_reason":"length","seed":5}],)"
            R"("usage":{"prompt_tokens":3,"completion_tokens":2}})");
}

TEST(BatchLinesTest, AFailureSaysWhy) {
  BatchAnswer answer;
  answer.Take(Text(0, "half"));
  EXPECT_EQ(answer.Line(1, {}, {grpc::StatusCode::INVALID_ARGUMENT, "top_p is 2"}),
            R"({"index":1,"error":{"code":"INVALID_ARGUMENT","message":"top_p is 2"}})");
}

}  // namespace
}  // namespace intermix
