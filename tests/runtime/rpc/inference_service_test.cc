// Inference.Generate over loopback: what comes back for good and for bad requests.
#include <algorithm>
#include <map>
#include <string>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tests/runtime/rpc/served_fake.h"

namespace intermix::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const std::vector<int32_t> kPrompt = {1, 300, 359, 478};

TEST(InferenceServiceTest, StreamsDeltasThenOneCompletion) {
  ServedFake served;
  const Answer answer = Ask(*served.Inference(), TokenRequest(kPrompt, 40));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  const SamplingParams sampling = {.max_tokens = 40, .stop_token_ids = {2}};
  EXPECT_EQ(answer.tokens, ExpectedTokens(kPrompt, sampling, served.model()).tokens);
  ASSERT_THAT(answer.completions, SizeIs(1));
  EXPECT_FALSE(answer.delta_after_completion);
  EXPECT_EQ(answer.completions[0].finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.completions[0].matched_stop_case(), v1::Completion::MATCHED_STOP_NOT_SET);
  EXPECT_EQ(answer.completions[0].usage().prompt_tokens(), 4);
  EXPECT_EQ(answer.completions[0].usage().completion_tokens(), 40);
}

TEST(InferenceServiceTest, DeltasJoinedAreTheWholeText) {
  ServedFake served;
  for (int32_t first = 300; first < 320; ++first) {  // random tokens: many are cut characters
    const std::vector<int32_t> prompt = {1, first};
    const Answer answer = Ask(*served.Inference(), TokenRequest(prompt, 60));
    std::vector<int32_t> all = prompt;
    all.insert(all.end(), answer.tokens.begin(), answer.tokens.end());
    const std::string before = served.front().tokenizer->Decode(prompt);
    const std::string whole = ValidUtf8(served.front().tokenizer->Decode(all));
    EXPECT_EQ(before + answer.text, whole);
  }
}

TEST(InferenceServiceTest, TokenisesTextAfterBos) {
  ServedFake served;
  v1::GenerateRequest request;
  request.set_text("And it came to pass");
  request.mutable_sampling()->set_max_tokens(8);
  const std::vector<int32_t> golden = {1, 300, 359, 478, 292, 605};  // golden/tiny-mixtral.json
  const SamplingParams sampling = {.max_tokens = 8, .stop_token_ids = {2}};
  EXPECT_EQ(Ask(*served.Inference(), request).tokens,
            ExpectedTokens(golden, sampling, served.model()).tokens);
  request.set_add_special_tokens(false);
  EXPECT_EQ(Ask(*served.Inference(), request).tokens,
            ExpectedTokens({300, 359, 478, 292, 605}, sampling, served.model()).tokens);
}

TEST(InferenceServiceTest, NamesTheTokenThatStoppedIt) {
  ServedFake served;
  const std::vector<int32_t> full =
      ExpectedTokens(kPrompt, {.max_tokens = 10}, served.model()).tokens;
  v1::GenerateRequest request = TokenRequest(kPrompt, 10);
  request.mutable_sampling()->add_stop_token_ids(full[4]);
  const Answer answer = Ask(*served.Inference(), request);
  EXPECT_EQ(answer.tokens, std::vector<int32_t>(full.begin(), full.begin() + 4));
  ASSERT_THAT(answer.completions, SizeIs(1));
  EXPECT_EQ(answer.completions[0].finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(answer.completions[0].matched_stop_token_id(), full[4]);
}

TEST(InferenceServiceTest, AStopStringEndsTheAnswerAndIsNotInIt) {
  ServedFake served;
  const std::string whole = Ask(*served.Inference(), TokenRequest(kPrompt, 40)).text;
  v1::GenerateRequest request = TokenRequest(kPrompt, 200);
  const std::string stop = whole.substr(whole.size() / 2, 5);
  request.mutable_sampling()->add_stop(stop);
  const Answer answer = Ask(*served.Inference(), request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text, whole.substr(0, whole.find(stop)));
  ASSERT_THAT(answer.completions, SizeIs(1));
  EXPECT_EQ(answer.completions[0].finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(answer.completions[0].matched_stop_text(), stop);
  EXPECT_EQ(answer.completions[0].usage().completion_tokens(), answer.tokens.size());
  EXPECT_EQ(answer.completions[0].usage().prompt_tokens(), 4);
  EXPECT_LT(answer.tokens.size(), 41);
}

// The answers to a request for several, by index.
std::map<uint32_t, Answer> AskForSeveral(v1::Inference::Stub& stub,
                                         const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  context.set_deadline(Soon());
  const auto reader = stub.Generate(&context, request);
  std::map<uint32_t, Answer> answers;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    const bool last = response.has_completion();
    Take(response, answers[last ? response.completion().index() : response.delta().index()]);
  }
  const grpc::Status status = reader->Finish();
  for (auto& [index, answer] : answers) answer.status = status;
  return answers;
}

TEST(InferenceServiceTest, GivesSeveralAnswersToOneRequest) {
  ServedFake served;
  v1::GenerateRequest request = TokenRequest(kPrompt, 20);
  request.mutable_sampling()->set_temperature(1.0f);
  request.mutable_sampling()->set_seed(9);
  request.mutable_sampling()->set_n(3);
  const std::map<uint32_t, Answer> answers = AskForSeveral(*served.Inference(), request);
  ASSERT_THAT(answers, SizeIs(3));
  const SamplingParams sampling = {
      .temperature = 1.0f, .seed = 9, .max_tokens = 20, .stop_token_ids = {2}};
  for (const auto& [index, answer] : answers) {
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.tokens, ExpectedTokens(kPrompt, sampling, served.model(), index).tokens);
    EXPECT_THAT(answer.completions, SizeIs(1));
    EXPECT_FALSE(answer.delta_after_completion);
  }
  EXPECT_NE(answers.at(0).tokens, answers.at(1).tokens);
}

TEST(InferenceServiceTest, SharesCachedPrefixesBySalt) {
  ServedFake served;
  v1::GenerateRequest request = TokenRequest(std::vector<int32_t>(21, 300), 2);  // 5 full blocks
  request.set_cache_salt("a");
  const std::vector<int32_t> first = Ask(*served.Inference(), request).tokens;
  request.set_cache_salt("b");
  EXPECT_EQ(Ask(*served.Inference(), request).tokens, first);
  EXPECT_EQ(served.engine()->Snapshot().prefix_hit_tokens, 0);
  EXPECT_EQ(Ask(*served.Inference(), request).tokens, first);
  EXPECT_EQ(served.engine()->Snapshot().prefix_hit_tokens, 20);
}

TEST(InferenceServiceTest, AHigherPriorityIsAnsweredFirst) {
  ServedFakeOptions options;
  options.engine.max_running = 1;
  ServedFake served(options);
  served.gate().Close();
  const auto stub = served.Inference();
  grpc::ClientContext low_context;
  low_context.set_deadline(Soon());
  const auto low = stub->Generate(&low_context, TokenRequest(kPrompt, 40));
  served.gate().Allow(1);
  served.gate().AwaitWaiting();  // it runs; nobody waits
  v1::GenerateRequest urgent = TokenRequest({5, 6, 7}, 3);
  urgent.set_priority(1);
  grpc::ClientContext high_context;
  high_context.set_deadline(Soon());
  const auto high = stub->Generate(&high_context, urgent);
  for (int i = 0; i < 60000 && served.engine()->Snapshot().waiting == 0; ++i) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  served.gate().Open();
  EXPECT_EQ(ReadAll(*high).tokens.size(), 3);
  EXPECT_EQ(served.engine()->Snapshot().preemptions, 1);
  const SamplingParams sampling = {.max_tokens = 40, .stop_token_ids = {2}};
  EXPECT_EQ(ReadAll(*low).tokens, ExpectedTokens(kPrompt, sampling, served.model()).tokens);
}

TEST(InferenceServiceTest, AChatIsPutAsTheModelsTemplateSays) {
  ServedFakeOptions options;
  v1::GenerateRequest request;
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("And it came to pass");
  request.mutable_sampling()->set_max_tokens(5);
  {
    ServedFake served(options);
    const Answer refused = Ask(*served.Inference(), request);
    EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(refused.status.error_message(), HasSubstr("no chat template that is known"));
  }
  options.chat_template = ChatTemplate{.format = ChatFormat::kMixtral};
  ServedFake served(options);
  const auto prompt = EncodeChat(*options.chat_template, *served.front().tokenizer,
                                 {{"user", "And it came to pass"}});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  const SamplingParams sampling = {.max_tokens = 5, .stop_token_ids = {2}};
  EXPECT_EQ(Ask(*served.Inference(), request).tokens,
            ExpectedTokens(prompt->tokens, sampling, served.model()).tokens);
  message->set_role("robot");
  EXPECT_THAT(Ask(*served.Inference(), request).status.error_message(),
              HasSubstr("must end with one of the user"));
}

TEST(InferenceServiceTest, TellsLogprobs) {
  ServedFake served;
  v1::GenerateRequest request = TokenRequest(kPrompt, 6);
  request.mutable_sampling()->set_logprobs(2);
  request.mutable_sampling()->set_prompt_logprobs(0);
  const Answer answer = Ask(*served.Inference(), request);
  const SamplingParams sampling = {.max_tokens = 6, .stop_token_ids = {2}, .logprobs = 2};
  const Expected expected = ExpectedTokens(kPrompt, sampling, served.model());
  ASSERT_EQ(answer.logprobs.size(), expected.logprobs.size());
  for (size_t i = 0; i < expected.logprobs.size(); ++i) {
    EXPECT_EQ(answer.logprobs[i].logprob(), expected.logprobs[i].logprob);
    ASSERT_EQ(answer.logprobs[i].top_size(), 2);
    EXPECT_EQ(answer.logprobs[i].top(1).token_id(), expected.logprobs[i].top[1].token_id);
    EXPECT_EQ(answer.logprobs[i].top(1).logprob(), expected.logprobs[i].top[1].logprob);
  }
  ASSERT_EQ(answer.prompt_logprobs.size(), kPrompt.size() - 1);
  EXPECT_EQ(answer.prompt_logprobs[2].logprob(),
            ExpectedPromptLogprobs(kPrompt, 0, served.model())[2].logprob);
}

TEST(InferenceServiceTest, EverySamplingFieldReachesTheEngine) {
  ServedFake served;
  v1::GenerateRequest request = TokenRequest(kPrompt, 30);
  v1::SamplingParams* proto = request.mutable_sampling();
  proto->set_temperature(1.25f);
  proto->set_seed(4);
  proto->set_min_p(0.05f);
  proto->set_repetition_penalty(1.25f);
  proto->set_presence_penalty(0.5f);
  proto->set_frequency_penalty(0.25f);
  (*proto->mutable_logit_bias())[700] = 6.0f;
  proto->add_bad_token_ids(701);
  for (uint32_t id = 690; id < 720; ++id) proto->add_allowed_token_ids(id);
  proto->add_stop_token_ids(700);
  proto->set_min_tokens(20);
  SamplingParams sampling = {.temperature = 1.25f,
                             .min_p = 0.05f,
                             .repetition_penalty = 1.25f,
                             .presence_penalty = 0.5f,
                             .frequency_penalty = 0.25f,
                             .logit_bias = {{700, 6.0f}},
                             .bad_token_ids = {701},
                             .seed = 4,
                             .max_tokens = 30,
                             .min_tokens = 20,
                             .stop_token_ids = {700, 2}};
  for (int32_t id = 690; id < 720; ++id) sampling.allowed_token_ids.push_back(id);
  const Answer answer = Ask(*served.Inference(), request);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.tokens, ExpectedTokens(kPrompt, sampling, served.model()).tokens);
  EXPECT_GE(answer.tokens.size(), 20);
}

TEST(InferenceServiceTest, ReportsASeedThatGivesTheSameTokensAgain) {
  ServedFake served;
  v1::GenerateRequest request = TokenRequest(kPrompt, 30);
  request.mutable_sampling()->set_temperature(1.5f);
  const Answer first = Ask(*served.Inference(), request);
  const Answer other = Ask(*served.Inference(), request);
  EXPECT_NE(first.tokens, other.tokens) << "two drawn seeds";
  ASSERT_THAT(first.completions, SizeIs(1));
  request.mutable_sampling()->set_seed(first.completions[0].seed());
  const Answer again = Ask(*served.Inference(), request);
  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(again.completions[0].seed(), first.completions[0].seed());
}

struct BadRequest {
  std::string field;
  std::function<void(v1::GenerateRequest&)> spoil;
};

TEST(InferenceServiceTest, RefusesBadFieldsByName) {
  ServedFakeOptions options;
  options.model.max_context = 64;
  ServedFake served(options);
  const std::vector<BadRequest> bad = {
      {"prompt is missing", [](auto& r) { r.clear_prompt(); }},
      {"token_ids", [](auto& r) { r.mutable_token_ids()->clear_ids(); }},
      {"token_ids", [](auto& r) { r.mutable_token_ids()->add_ids(0xFFFFFFFFu); }},
      {"2048", [](auto& r) { r.mutable_token_ids()->add_ids(2048); }},
      {"text", [](auto& r) { r.set_text(""), r.set_add_special_tokens(false); }},
      {"text", [](auto& r) { r.set_text(std::string((4 << 20) + 1, 'a')); }},
      {"64", [](auto& r) { r.set_text("And it came to pass " + std::string(500, 'x')); }},
      {"temperature", [](auto& r) { r.mutable_sampling()->set_temperature(-1); }},
      {"temperature", [](auto& r) { r.mutable_sampling()->set_temperature(NAN); }},
      {"top_k", [](auto& r) { r.mutable_sampling()->set_top_k(0x80000000u); }},
      {"top_p", [](auto& r) { r.mutable_sampling()->set_top_p(0); }},
      {"max_tokens", [](auto& r) { r.mutable_sampling()->set_max_tokens(0); }},
      {"max_tokens", [](auto& r) { r.mutable_sampling()->set_max_tokens(0xFFFFFFFFu); }},
      {"stop_token_ids", [](auto& r) { r.mutable_sampling()->add_stop_token_ids(2048); }},
      {"priority", [](auto& r) { r.set_priority(1001); }},
      {"cache_salt", [](auto& r) { r.set_cache_salt(std::string(257, 's')); }},
      {"min_p", [](auto& r) { r.mutable_sampling()->set_min_p(2); }},
      {"repetition_penalty", [](auto& r) { r.mutable_sampling()->set_repetition_penalty(NAN); }},
      {"logit_bias", [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[2048] = 1; }},
      {"logit_bias", [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[~0u] = 1; }},
      {"bad_token_ids", [](auto& r) { r.mutable_sampling()->add_bad_token_ids(1u << 31); }},
      {"allowed_token_ids", [](auto& r) { r.mutable_sampling()->add_allowed_token_ids(2048); }},
      {"min_tokens", [](auto& r) { r.mutable_sampling()->set_min_tokens(5); }},
      {"stop holds", [](auto& r) { r.mutable_sampling()->add_stop(""); }},
      {"logprobs", [](auto& r) { r.mutable_sampling()->set_logprobs(21); }},
      {"prompt_logprobs", [](auto& r) { r.mutable_sampling()->set_prompt_logprobs(~0u); }},
      {"n is 0", [](auto& r) { r.mutable_sampling()->set_n(0); }},
      {"n is 33", [](auto& r) { r.mutable_sampling()->set_n(33); }},
      {"n is", [](auto& r) { r.mutable_sampling()->set_n(~0u); }},
      {"request_id", [](auto& r) { r.set_request_id(std::string(257, 'a')); }},
  };
  for (const BadRequest& b : bad) {
    v1::GenerateRequest request = TokenRequest(kPrompt, 4);
    b.spoil(request);
    const Answer answer = Ask(*served.Inference(), request);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << b.field;
    EXPECT_THAT(answer.status.error_message(), HasSubstr(b.field));
    EXPECT_EQ(answer.num_deltas, 0);
  }
  EXPECT_TRUE(Ask(*served.Inference(), TokenRequest(kPrompt, 4)).status.ok());
}

// Sends raw bytes as the request of one method and returns the status.
grpc::Status SendBytes(const ServedFake& served, const std::string& bytes) {
  grpc::GenericStub stub(served.Channel());
  grpc::ClientContext context;
  context.set_deadline(Soon());
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(&context, "/intermix.v1.Inference/Generate", &queue);
  void* tag = nullptr;
  bool ok = false;
  const grpc::Slice slice(bytes);
  grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  call->StartCall(&tag);
  queue.Next(&tag, &ok);
  call->WriteLast(request, grpc::WriteOptions(), &tag);
  queue.Next(&tag, &ok);
  while (ok) {
    call->Read(&response, &tag);
    queue.Next(&tag, &ok);
  }
  call->Finish(&status, &tag);
  queue.Next(&tag, &ok);
  return status;
}

TEST(InferenceServiceTest, RefusesTextThatIsNotUtf8) {
  ServedFake served;
  const std::string one_token = "\x2A\x02\x28\x01";           // sampling {max_tokens: 1}
  const std::string good = "\x12\x03" + ("abc" + one_token);  // text: three bytes
  const std::string cut = "\x12\x03" + ("ab\xC3" + one_token);
  EXPECT_TRUE(SendBytes(served, good).ok());
  for (const std::string& bad : {cut, std::string("\x12\x7F") + "ab", std::string("\xFF\xFF")}) {
    const grpc::Status status = SendBytes(served, bad);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("UTF-8"));
  }
}

TEST(InferenceServiceTest, RefusesAMessageThatIsTooLargeToRead) {
  ServedFakeOptions options;
  options.server.max_message_bytes = 10000;
  ServedFake served(options);
  v1::GenerateRequest request;
  request.set_text(std::string(20000, 'a'));
  EXPECT_EQ(Ask(*served.Inference(), request).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST(InferenceServiceTest, IsUnavailableBeforeAndAfter) {
  ServedFake served({.open = false});
  const Answer before = Ask(*served.Inference(), TokenRequest(kPrompt, 4));
  EXPECT_EQ(before.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(before.status.error_message(), HasSubstr("loading"));
  served.Open();
  EXPECT_TRUE(Ask(*served.Inference(), TokenRequest(kPrompt, 4)).status.ok());
  served.server().Drain();
  const Answer after = Ask(*served.Inference(), TokenRequest(kPrompt, 4));
  EXPECT_EQ(after.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(after.status.error_message(), HasSubstr("shutting down"));
}

}  // namespace
}  // namespace intermix::testing
