#include "launch/perplexity.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

// -log softmax(logits)[target].
double NegativeLogLikelihood(std::span<const float> logits, int32_t target) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  return max + std::log(sum) - static_cast<double>(logits[target]);
}

// How many windows one step can hold: in its token budget, and in each dp group's cache.
struct Capacity {
  int32_t windows = 0;  // of one step
  int32_t blocks_per_window = 0;
};

Capacity CapacityOf(const PerplexityOptions& options, const ModelRunner& runner) {
  Capacity capacity;
  capacity.blocks_per_window = (options.window + runner.block_size() - 1) / runner.block_size();
  const int32_t in_cache =
      runner.num_kv_blocks() / capacity.blocks_per_window * runner.num_dp_groups();
  capacity.windows = std::min(options.max_batch_tokens / options.window, in_cache);
  return capacity;
}

// Window `index` of a step: [BOS] and all tokens but the last, whose successors are scored.
SequenceChunk Chunk(std::span<const int32_t> window, int32_t bos, int32_t index,
                    const Capacity& capacity, int32_t num_dp_groups) {
  SequenceChunk chunk{.dp_rank = index % num_dp_groups, .logits = LogitsWanted::kAll};
  chunk.tokens.push_back(bos);
  chunk.tokens.insert(chunk.tokens.end(), window.begin(), window.end() - 1);
  for (int32_t b = 0; b < capacity.blocks_per_window; ++b) {
    chunk.blocks.push_back(index / num_dp_groups * capacity.blocks_per_window + b);
  }
  return chunk;
}

absl::Status Check(const PerplexityOptions& options, std::span<const int32_t> text,
                   const ModelRunner& runner) {
  if (options.bos_token_id < 0) {
    return absl::InvalidArgumentError(
        "the model has no begin-of-sequence token to open windows with");
  }
  if (text.empty()) return absl::InvalidArgumentError("the text has no tokens");
  if (options.window < 1 || options.window > runner.max_context()) {
    return absl::InvalidArgumentError(absl::StrCat("a window of ", options.window,
                                                   " tokens does not fit the context of ",
                                                   runner.max_context()));
  }
  if (CapacityOf(options, runner).windows < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a window of ", options.window, " tokens does not fit a step of ", options.max_batch_tokens,
        " tokens or a KV cache of ", int64_t{runner.num_kv_blocks()} * runner.block_size(),
        "; raise --max-batch-tokens or --kv-memory"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PerplexityResult> MeasurePerplexity(const PerplexityOptions& options,
                                                   std::span<const int32_t> text,
                                                   ModelRunner& runner) {
  if (absl::Status s = Check(options, text, runner); !s.ok()) return s;
  const Capacity capacity = CapacityOf(options, runner);
  const int64_t total = std::ssize(text);
  Batch batch;
  double sum = 0.0;
  for (int64_t begin = 0; begin < total;) {
    if (options.cancelled != nullptr && *options.cancelled) {
      return absl::CancelledError("cancelled");
    }
    batch.chunks.clear();
    ++batch.step;
    int64_t end = begin;
    for (int32_t i = 0; i < capacity.windows && end < total; ++i) {
      const int64_t size = std::min<int64_t>(options.window, total - end);
      batch.chunks.push_back(Chunk(text.subspan(end, size), options.bos_token_id, i, capacity,
                                   runner.num_dp_groups()));
      end += size;
    }
    const Tensor logits = runner.Step(batch).values;  // row i scores token begin + i
    for (int64_t i = 0; i < end - begin; ++i) {
      sum += NegativeLogLikelihood({logits.row<float>(i), static_cast<size_t>(logits.cols())},
                                   text[begin + i]);
    }
    begin = end;
    options.progress(end);
  }
  return PerplexityResult{.perplexity = std::exp(sum / static_cast<double>(total)),
                          .tokens = total};
}

}  // namespace intermix
