#include "tests/soak/soak_requests.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <random>
#include <string_view>

#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

constexpr int kNumRequests = 48;

std::string ReadText() {
  std::ifstream file(TestData() + "/text/kjv-heldout.txt");
  return {std::istreambuf_iterator<char>(file), {}};
}

// Everything that has to do with how tokens are chosen and where an answer ends.
void SetSampling(int index, uint32_t max_tokens, v1::SamplingParams& sampling) {
  sampling.set_max_tokens(max_tokens);
  sampling.set_seed(1000 + static_cast<uint64_t>(index));
  if (index % 2 == 1) sampling.set_temperature(0.7f);
  if (index % 3 == 1) sampling.set_top_p(0.9f);
  if (index % 5 == 1) sampling.set_top_k(20);
  if (index % 7 == 1) sampling.set_min_p(0.05f);
  if (index % 4 == 2) sampling.set_ignore_eos(true);
  if (index % 6 == 3) sampling.set_repetition_penalty(1.2f);
  if (index % 6 == 4) sampling.set_frequency_penalty(0.5f);
  if (index % 8 == 5) sampling.set_n(3);
  if (index % 9 == 4) sampling.set_logprobs(3);
  if (index % 11 == 6) sampling.set_prompt_logprobs(2);
  if (index % 10 == 7) sampling.add_stop("the");
  if (index % 12 == 8) sampling.set_min_tokens(max_tokens / 2);
  if (index % 13 == 9) (*sampling.mutable_logit_bias())[300] = 5.0f;
  if (index % 13 == 10) sampling.add_bad_token_ids(301);
}

}  // namespace

std::vector<v1::GenerateRequest> SoakRequests() {
  const std::string text = ReadText();
  std::mt19937 random(17);
  const auto draw = [&random](size_t below) { return random() % below; };
  const std::string common = text.substr(0, 700);
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < kNumRequests; ++i) {
    const size_t bytes = i % 8 == 0 ? 1500 : 1 + draw(i % 2 == 0 ? 40 : 400);
    const std::string own = text.substr(draw(text.size() - bytes), bytes);
    v1::GenerateRequest request;
    request.set_text(i % 3 == 0 ? common + own : own);
    request.set_request_id("soak " + std::to_string(i));
    SetSampling(i, static_cast<uint32_t>(1 + draw(64)), *request.mutable_sampling());
    requests.push_back(std::move(request));
  }
  return requests;
}

std::vector<v1::GenerateRequest> BadRequests() {
  std::vector<v1::GenerateRequest> requests(8);
  requests[1].set_text(std::string(100000, 'a'));  // longer than the context
  requests[2].mutable_token_ids()->add_ids(1 << 20);
  for (size_t i = 3; i < requests.size(); ++i) requests[i].set_text("And");
  requests[3].mutable_sampling()->set_temperature(-1.0f);
  requests[4].mutable_sampling()->set_top_p(2.0f);
  requests[5].mutable_sampling()->set_n(1000);
  requests[6].mutable_sampling()->add_stop("");
  requests[7].set_priority(100000);
  return requests;
}

void SoakAnswer::Take(const v1::GenerateResponse& response) {
  if (response.has_completion()) {
    choices[response.completion().index()].end = response.completion().SerializeAsString();
    return;
  }
  const v1::Delta& delta = response.delta();
  Choice& choice = choices[delta.index()];
  choice.tokens.insert(choice.tokens.end(), delta.token_ids().begin(), delta.token_ids().end());
  choice.text += delta.text();
  for (const auto& logprobs : delta.prompt_logprobs()) {
    choice.logprobs += logprobs.SerializeAsString();
  }
  for (const auto& logprobs : delta.logprobs()) choice.logprobs += logprobs.SerializeAsString();
}

bool SoakAnswer::IsBeginningOf(const SoakAnswer& whole) const {
  return std::all_of(choices.begin(), choices.end(), [&](const auto& entry) {
    const auto& [index, mine] = entry;
    const auto other = whole.choices.find(index);
    if (other == whole.choices.end() || mine.tokens.size() > other->second.tokens.size()) {
      return false;
    }
    return std::equal(mine.tokens.begin(), mine.tokens.end(), other->second.tokens.begin()) &&
           other->second.text.starts_with(mine.text) &&
           other->second.logprobs.starts_with(mine.logprobs) &&
           (mine.end.empty() || mine == other->second);
  });
}

}  // namespace intermix
