#include "runtime/rpc/answer_builder.h"

#include <utility>

namespace intermix {

AnswerBuilder::AnswerBuilder(const Tokenizer& tokenizer, const GenerateRequest& request)
    : detokenizer_(tokenizer, request.prompt),
      stops_(request.sampling.stop),
      min_tokens_(request.sampling.min_tokens),
      usage_{.prompt_tokens = static_cast<int32_t>(request.prompt.size())} {}

bool AnswerBuilder::AddText(const std::string& text, std::string& out) {
  out += stops_.Add(text, usage_.completion_tokens > min_tokens_);
  return stops_.matched().has_value();
}

AnswerPart AnswerBuilder::Take(TokenDelta delta) {
  AnswerPart part;
  size_t taken = 0;
  bool stopped = false;
  while (taken < delta.tokens.size() && !stopped) {
    ++usage_.completion_tokens;
    stopped = AddText(detokenizer_.Add(delta.tokens[taken++]), part.text);
  }
  if (delta.finished && !stopped) {
    stopped = AddText(detokenizer_.Flush(), part.text);
    part.text += stops_.Flush();
  }
  if (stopped) {
    delta.tokens.resize(taken);
    if (!delta.logprobs.empty()) delta.logprobs.resize(taken);
    part.delta = {.tokens = std::move(delta.tokens),
                  .logprobs = std::move(delta.logprobs),
                  .prompt_logprobs = std::move(delta.prompt_logprobs),
                  .finished = true,
                  .reason = FinishReason::kStop,
                  .stop = stops_.matched(),
                  .usage = usage_};
  } else {
    part.delta = std::move(delta);
  }
  return part;
}

}  // namespace intermix
