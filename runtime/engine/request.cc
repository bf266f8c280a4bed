#include "runtime/engine/request.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace intermix {

namespace {

// Moves the first `count` of `from`, or all, to the end of `to`.
template <typename T>
void MoveFirst(size_t count, std::vector<T>& from, std::vector<T>& to) {
  const auto end = from.begin() + static_cast<std::ptrdiff_t>(std::min(count, from.size()));
  std::move(from.begin(), end, std::back_inserter(to));
  from.erase(from.begin(), end);
}

absl::Status ValidatePrompt(const std::vector<int32_t>& prompt, int32_t vocab_size) {
  if (prompt.empty()) {
    return absl::InvalidArgumentError("the prompt is empty; it must have at least one token");
  }
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] < 0 || prompt[i] >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "prompt token ", i, " is ", prompt[i], "; the vocabulary has ids 0 to ", vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status GenerateRequest::Validate(int32_t vocab_size) const {
  if (absl::Status s = ValidatePrompt(prompt, vocab_size); !s.ok()) return s;
  if (absl::Status s = sampling.Validate(vocab_size); !s.ok()) return s;
  if (priority < -kMaxPriority || priority > kMaxPriority) {
    return absl::InvalidArgumentError(absl::StrCat("priority is ", priority, "; it must be in [",
                                                   -kMaxPriority, ", ", kMaxPriority, "]"));
  }
  if (cache_salt.size() > kMaxSaltBytes) {
    return absl::InvalidArgumentError(absl::StrCat("cache_salt has ", cache_salt.size(),
                                                   " bytes; it may have at most ", kMaxSaltBytes));
  }
  return absl::OkStatus();
}

TokenDelta RequestStream::Next(absl::Time deadline) {
  std::unique_lock lock(mutex_);
  const auto ready = [this] { return !pending_.empty(); };
  if (deadline == absl::InfiniteFuture()) {
    ready_.wait(lock, ready);
  } else {
    ready_.wait_until(lock, absl::ToChronoTime(deadline), ready);
  }
  TokenDelta delta;
  if (pending_.prompt_logprobs.size() > kMaxMerged) {
    MoveFirst(kMaxMerged, pending_.prompt_logprobs, delta.prompt_logprobs);
    return delta;
  }
  if (pending_.tokens.size() > kMaxMerged) {
    delta.prompt_logprobs = std::exchange(pending_.prompt_logprobs, {});
    MoveFirst(kMaxMerged, pending_.tokens, delta.tokens);
    MoveFirst(kMaxMerged, pending_.logprobs, delta.logprobs);
    unread_.store(pending_.tokens.size(), std::memory_order_relaxed);
    return delta;
  }
  delta = std::exchange(pending_, {});
  unread_.store(0, std::memory_order_relaxed);
  if (delta.finished) {  // the end stays and is returned again
    pending_ = {.finished = true,
                .status = delta.status,
                .reason = delta.reason,
                .stop_token_id = delta.stop_token_id,
                .usage = delta.usage};
  }
  return delta;
}

void RequestStream::OnReady(std::function<void()> ready) {
  const auto on_ready = std::make_shared<const std::function<void()>>(std::move(ready));
  bool already = false;
  {
    const std::lock_guard lock(mutex_);
    on_ready_ = on_ready;
    already = !pending_.empty();
  }
  if (already) (*on_ready)();
}

void RequestStream::Start(absl::Duration queued, int32_t cached_tokens) {
  cached_tokens_.store(cached_tokens, std::memory_order_relaxed);
  queued_ns_.store(std::max<int64_t>(0, absl::ToInt64Nanoseconds(queued)),
                   std::memory_order_release);
}

std::optional<RequestStream::Started> RequestStream::started() const {
  const int64_t queued_ns = queued_ns_.load(std::memory_order_acquire);
  if (queued_ns < 0) return std::nullopt;
  return Started{.queued = absl::Nanoseconds(queued_ns),
                 .cached_tokens = cached_tokens_.load(std::memory_order_relaxed)};
}

void RequestStream::Push(int32_t token, std::optional<TokenLogprobs> logprobs) {
  Change([&](TokenDelta& pending) {
    pending.tokens.push_back(token);
    if (logprobs.has_value()) pending.logprobs.push_back(*std::move(logprobs));
  });
}

void RequestStream::PushPrompt(std::vector<TokenLogprobs> logprobs) {
  Change([&](TokenDelta& pending) {
    std::move(logprobs.begin(), logprobs.end(), std::back_inserter(pending.prompt_logprobs));
  });
}

void RequestStream::Finish(TokenDelta last) {
  Change([&](TokenDelta& pending) {
    last.finished = true;
    last.tokens.insert(last.tokens.begin(), pending.tokens.begin(), pending.tokens.end());
    last.logprobs = std::move(pending.logprobs);
    last.prompt_logprobs = std::move(pending.prompt_logprobs);
    pending = std::move(last);
  });
}

// Changes what waits for the reader and tells it.
void RequestStream::Change(const std::function<void(TokenDelta&)>& change) {
  std::shared_ptr<const std::function<void()>> on_ready;
  {
    const std::lock_guard lock(mutex_);
    CHECK(!pending_.finished) << "something follows the end of a stream";
    change(pending_);
    unread_.store(pending_.tokens.size(), std::memory_order_relaxed);
    on_ready = on_ready_;
  }
  ready_.notify_one();
  if (on_ready) (*on_ready)();
}

}  // namespace intermix
