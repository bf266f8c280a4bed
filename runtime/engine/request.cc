#include "runtime/engine/request.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace intermix {

absl::Status SamplingParams::Validate(int32_t vocab_size) const {
  if (!(temperature >= 0.0f) || std::isinf(temperature)) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature is ", temperature, "; it must be 0 (greedy) or a positive number"));
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
  const absl::MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return !pending_.tokens.empty() || pending_.finished;
  };
  mutex_.AwaitWithDeadline(absl::Condition(&ready), deadline);
  TokenDelta delta = std::move(pending_);
  pending_ = TokenDelta();
  return delta;
}

void RequestStream::Cancel() {
  const absl::MutexLock lock(&mutex_);
  cancelled_ = true;
}

void RequestStream::Push(int32_t token) {
  const absl::MutexLock lock(&mutex_);
  pending_.tokens.push_back(token);
}

void RequestStream::Finish(TokenDelta last) {
  const absl::MutexLock lock(&mutex_);
  last.tokens.insert(last.tokens.begin(), pending_.tokens.begin(), pending_.tokens.end());
  last.finished = true;
  pending_ = std::move(last);
}

bool RequestStream::cancelled() const {
  const absl::MutexLock lock(&mutex_);
  return cancelled_;
}

}  // namespace intermix
