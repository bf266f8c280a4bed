#include "runtime/engine/request.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace intermix {

absl::Status SamplingParams::Validate(int32_t vocab_size) const {
  if (!(temperature >= 0.0f) || std::isinf(temperature)) {
    return absl::InvalidArgumentError(absl::StrCat("temperature is ", temperature,
                                                   "; it must be 0 (greedy) or a positive number"));
  }
  if (top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", top_k, "; it must be 0 (all tokens) or positive"));
  }
  if (!(top_p > 0.0f && top_p <= 1.0f)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p is ", top_p, "; it must be in (0, 1]"));
  }
  if (max_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", max_tokens, "; it must be at least 1"));
  }
  for (int32_t id : stop_token_ids) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "stop_token_ids holds ", id, "; the vocabulary has ids 0 to ", vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

TokenDelta RequestStream::Next(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  const auto ready = [this] { return !pending_.tokens.empty() || pending_.finished; };
  if (deadline == absl::InfiniteFuture()) {
    ready_.wait(lock, ready);
  } else {
    ready_.wait_until(lock, absl::ToChronoTime(deadline), ready);
  }
  std::vector<int32_t> tokens = std::exchange(pending_.tokens, {});
  TokenDelta delta = pending_;  // where finished, the end stays and is returned again
  delta.tokens = std::move(tokens);
  return delta;
}

void RequestStream::OnReady(std::function<void()> ready) {
  const auto on_ready = std::make_shared<const std::function<void()>>(std::move(ready));
  bool already = false;
  {
    const std::lock_guard lock(mutex_);
    on_ready_ = on_ready;
    already = !pending_.tokens.empty() || pending_.finished;
  }
  if (already) (*on_ready)();
}

void RequestStream::Push(int32_t token) {
  std::shared_ptr<const std::function<void()>> on_ready;
  {
    const std::lock_guard lock(mutex_);
    CHECK(!pending_.finished) << "token " << token << " after the end of a stream";
    pending_.tokens.push_back(token);
    on_ready = on_ready_;
  }
  ready_.notify_one();
  if (on_ready) (*on_ready)();
}

void RequestStream::Finish(TokenDelta last) {
  last.finished = true;
  std::shared_ptr<const std::function<void()>> on_ready;
  {
    const std::lock_guard lock(mutex_);
    CHECK(!pending_.finished) << "a stream ended twice";
    last.tokens.insert(last.tokens.begin(), pending_.tokens.begin(), pending_.tokens.end());
    pending_ = std::move(last);
    on_ready = on_ready_;
  }
  ready_.notify_one();
  if (on_ready) (*on_ready)();
}

}  // namespace intermix
