// AnswerBuilder: one answer on its way from the engine to a client: tokens become text, stop
// strings end it. What comes out depends on the tokens alone, not on how they were merged. No gRPC
// in here; the server and `intermix generate` share it. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/engine/request.h"
#include "runtime/tokenizer/detokenizer.h"
#include "runtime/tokenizer/stop_matcher.h"

namespace intermix {

struct AnswerPart {
  TokenDelta delta;
  std::string text;  // whole characters; lags behind the tokens

  bool has_content() const {
    return !delta.tokens.empty() || !delta.prompt_logprobs.empty() || !text.empty();
  }
};

class AnswerBuilder {
 public:
  // For an answer to `request`, whose prompt the text continues. `tokenizer` outlives it.
  AnswerBuilder(const Tokenizer& tokenizer, const GenerateRequest& request);

  // What the next delta of the answer's stream brings. Where it completes a stop string, the part
  // is finished (kStop, with `stop` set), tokens behind the one that completed it are dropped, and
  // what the stream still brings is to be ignored. A stop string counts where it ends after the
  // first min_tokens tokens.
  AnswerPart Take(TokenDelta delta);

 private:
  // Adds text; whether a stop string ended it.
  bool AddText(const std::string& text, std::string& out);

  Detokenizer detokenizer_;
  StopMatcher stops_;
  const int32_t min_tokens_;
  Usage usage_;
};

}  // namespace intermix
