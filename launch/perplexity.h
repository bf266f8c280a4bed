// Perplexity of a model on a text: exp of the mean negative log likelihood of its tokens, in
// windows that know nothing of each other.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/statusor.h"
#include "runtime/engine/model_runner.h"

namespace intermix {

struct PerplexityOptions {
  int32_t bos_token_id = -1;
  int32_t window = 512;             // tokens that are scored together, after one BOS
  int32_t max_batch_tokens = 2048;  // of one step; at least one window
  std::function<void(int64_t done)> progress = [](int64_t) {};  // tokens, after each step
  const std::atomic<bool>* cancelled = nullptr;
};

struct PerplexityResult {
  double perplexity = 0.0;
  int64_t tokens = 0;
};

// Cuts `text` (tokens without BOS) into consecutive windows, the last one maybe shorter; scores
// each as [BOS] + window: the negative log likelihood of every token of the window, in double and
// in one order. Rank 0; the others run RunWorker. Does not stop the runner.
//   INVALID_ARGUMENT: no BOS, no tokens, or a window that the model's context or cache cannot hold.
//   CANCELLED.
absl::StatusOr<PerplexityResult> MeasurePerplexity(const PerplexityOptions& options,
                                                   std::span<const int32_t> text,
                                                   ModelRunner& runner);

}  // namespace intermix
