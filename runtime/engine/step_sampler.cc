#include "runtime/engine/step_sampler.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace intermix {
namespace {

constexpr int kMaxThreads = 4;  // a row takes tens of microseconds, waking a thread about ten

}  // namespace

int32_t StepSampler::LikeliestNeeded(const StepPlan& plan, int32_t vocab_size) {
  int32_t most = 0;
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const LogitsWanted wanted = plan.batch.chunks[i].logits;
    if (wanted == LogitsWanted::kNone) continue;
    const Sequence& sequence = *plan.sequences[i];
    const bool more = wanted == LogitsWanted::kAll || sequence.sampling.logprobs.has_value();
    const int32_t needed =
        more ? 0 : Sampler::LikeliestNeeded(sequence.sampling, sequence.state(), vocab_size);
    if (needed == 0) return 0;
    most = std::max(most, needed);
  }
  return most;
}

StepSampler::StepSampler(int num_threads)
    : threads_(
          {.num_threads = std::min(kMaxThreads, num_threads > 0 ? num_threads : NumAllowedCpus()),
           .spin = false}),
      scratch_(static_cast<size_t>(threads_.num_threads())) {}

std::span<SampledRow> StepSampler::Sample(const StepPlan& plan, const StepLogits& logits) {
  rows_.clear();
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const Sequence& sequence = *plan.sequences[i];
    const SequenceChunk& chunk = plan.batch.chunks[i];
    const bool of_prompt = chunk.logits == LogitsWanted::kAll && sequence.wants_prompt_logprobs();
    for (int32_t row = chunk.num_logits_rows(); row > 0; --row) {
      rows_.push_back({&sequence, chunk.end() - row, of_prompt});
    }
  }
  const auto count = static_cast<int64_t>(rows_.size());
  CHECK_EQ(logits.values.rows(), count);
  sampled_.assign(rows_.size(), {});
  const auto sample = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t r = begin; r < end; ++r) {
      sampled_[r] = SampleOne(rows_[r], logits.Rows(r, r + 1), scratch_[worker]);
    }
  };
  if (logits.ids.empty()) {
    threads_.ParallelFor(count, 1, std::ref(sample));
  } else {
    sample(0, count, 0);
  }
  return sampled_;
}

SampledRow StepSampler::SampleOne(const Row& row, const StepLogits& logits,
                                  Scratch& scratch) const {
  const Sequence& sequence = *row.sequence;
  const SamplingParams& sampling = sequence.sampling;
  const auto size = static_cast<size_t>(logits.values.cols());
  const std::span<const float> values(logits.values.data<float>(), size);
  SampledRow sampled;
  const auto logprobs_of = [&](int32_t token, int32_t num_top) {
    absl::StatusOr<TokenLogprobs> found = Logprobs(values, token, num_top, scratch.weights);
    if (!found.ok()) sampled.status = found.status();
    return found.ok() ? std::optional(*std::move(found)) : std::nullopt;
  };
  const int32_t next = row.position + 1;
  if (row.of_prompt && next > sequence.num_prompt_logprobs && next < sequence.num_prompt_tokens) {
    sampled.prompt_logprobs = logprobs_of(sequence.tokens[next], *sampling.prompt_logprobs);
  }
  if (next != sequence.length()) return sampled;
  const absl::StatusOr<int32_t> token =
      logits.ids.empty()
          ? scratch.sampler.Sample(values, sampling, sequence.state())
          : scratch.sampler.SampleLikeliest(values, {logits.ids.data<int32_t>(), size}, sampling,
                                            sequence.state());
  if (!token.ok()) return {.status = token.status()};
  sampled.token = *token;
  if (sampling.logprobs.has_value()) sampled.logprobs = logprobs_of(*token, *sampling.logprobs);
  return sampled;
}

}  // namespace intermix
