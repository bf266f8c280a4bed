#include "tests/testing/fake_model_runner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/core/check.h"
#include "kernels/operands.h"
#include "runtime/engine/sampler.h"

namespace intermix::testing {
namespace {

constexpr int32_t kUnwritten = -1;

uint64_t Mix(uint64_t x) {  // SplitMix64's finaliser
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace

std::vector<float> FakeLogits(std::span<const int32_t> history, const FakeModelOptions& options) {
  uint64_t hash = 0;
  for (int32_t token : history) hash = Mix(hash ^ static_cast<uint64_t>(token));
  std::vector<float> logits(options.vocab_size);
  for (int32_t id = 0; id < options.vocab_size; ++id) {
    // 16 random bits and the id: exact in float32, and no two are equal.
    const uint64_t bits = Mix(hash ^ Mix(static_cast<uint64_t>(id))) >> 48;
    logits[id] = static_cast<float>(bits) * 0x1p-13f + static_cast<float>(id) * 0x1p-20f;
  }
  if (history.back() == options.nan_token) {
    logits[options.vocab_size / 2] = std::numeric_limits<float>::quiet_NaN();
  }
  return logits;
}

Expected ExpectedTokens(const std::vector<int32_t>& prompt, const SamplingParams& sampling,
                        const FakeModelOptions& options, int32_t choice) {
  Expected expected;
  Sampler sampler;
  TokenWeights weights;
  std::vector<int32_t> history = prompt;
  for (int32_t i = 0; i < sampling.max_tokens; ++i) {
    if (static_cast<int32_t>(history.size()) >= options.max_context) break;
    const std::vector<float> logits = FakeLogits(history, options);
    const absl::StatusOr<int32_t> token = sampler.Sample(
        logits, sampling, {.prompt = prompt, .output = expected.tokens, .choice = choice});
    CHECK(token.ok()) << token.status().ToString();
    const std::vector<int32_t>& stop = sampling.stop_token_ids;
    expected.stopped = std::find(stop.begin(), stop.end(), *token) != stop.end();
    if (expected.stopped) break;
    history.push_back(*token);
    expected.tokens.push_back(*token);
    if (sampling.logprobs.has_value()) {
      expected.logprobs.push_back(*Logprobs(logits, *token, *sampling.logprobs, weights));
    }
  }
  return expected;
}

std::vector<TokenLogprobs> ExpectedPromptLogprobs(const std::vector<int32_t>& prompt, int32_t top,
                                                  const FakeModelOptions& options) {
  std::vector<TokenLogprobs> expected;
  TokenWeights weights;
  const std::span<const int32_t> all(prompt);
  for (size_t i = 1; i < prompt.size(); ++i) {
    expected.push_back(*Logprobs(FakeLogits(all.first(i), options), prompt[i], top, weights));
  }
  return expected;
}

FakeModelRunner::FakeModelRunner(const FakeModelOptions& options)
    : options_(options),
      cache_(options.num_dp_groups,
             std::vector<int32_t>(options.num_kv_blocks * options.block_size, kUnwritten)) {}

void FakeModelRunner::Start(const Batch& batch) {
  if (on_start) on_start(batch);
  started_ = &batch;
}

StepLogits FakeModelRunner::Finish() {
  const Batch& batch = *started_;
  if (on_step) on_step(batch);
  CheckBatch(batch);
  batches_.push_back(batch);
  logits_.clear();
  ids_.clear();
  BlockUses used;
  std::vector<bool> sound;
  for (const SequenceChunk& chunk : batch.chunks) {
    sound.push_back(CheckChunk(batch, chunk, used));
    if (!sound.back()) continue;
    for (int32_t position = chunk.start; position < chunk.end(); ++position) {
      // A block that is begun forgets what its last owner left in it.
      const int32_t in_block = position % options_.block_size;
      int32_t& slot = Slot(chunk, position);
      if (in_block == 0) std::fill(&slot, &slot + options_.block_size, kUnwritten);
      slot = chunk.tokens[position - chunk.start];
    }
  }
  for (size_t i = 0; i < batch.chunks.size(); ++i) {
    const SequenceChunk& chunk = batch.chunks[i];
    for (int32_t row = chunk.num_logits_rows(); row > 0; --row) {
      const std::vector<int32_t> history =
          sound[i] ? History(batch, chunk, chunk.end() - row + 1) : std::vector<int32_t>{0};
      AddRow(FakeLogits(history, options_), batch.likeliest);
    }
  }
  const int64_t rows = batch.num_logits_rows();
  if (batch.likeliest == 0) {
    return {.values = Tensor(logits_.data(), DType::kF32, {rows, options_.vocab_size}), .ids = {}};
  }
  return {.values = Tensor(logits_.data(), DType::kF32, {rows, batch.likeliest}),
          .ids = Tensor(ids_.data(), DType::kI32, {rows, batch.likeliest})};
}

void FakeModelRunner::AddRow(const std::vector<float>& logits, int32_t likeliest) {
  if (likeliest == 0) {
    logits_.insert(logits_.end(), logits.begin(), logits.end());
    return;
  }
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::stable_sort(ids, [&](int32_t a, int32_t b) {
    return std::isnan(logits[a]) ? !std::isnan(logits[b]) : logits[a] > logits[b];
  });
  for (int32_t i = 0; i < likeliest; ++i) {
    logits_.push_back(logits[ids[i]]);
    ids_.push_back(ids[i]);
  }
}

void FakeModelRunner::Stop() {
  if (stopped_) violations_.push_back("stopped twice");
  stopped_ = true;
}

bool FakeModelRunner::Violation(const Batch& batch, const std::string& what) {
  violations_.push_back("step " + std::to_string(batch.step) + ": " + what);
  return false;
}

void FakeModelRunner::CheckBatch(const Batch& batch) {
  if (stopped_) Violation(batch, "a step after Stop");
  if (batch.stop) Violation(batch, "the stop flag is the runner's to set");
  if (batch.chunks.empty()) Violation(batch, "nothing to do");
  if (batch.likeliest < 0 || batch.likeliest > std::min(kMaxTopK, options_.vocab_size)) {
    Violation(batch, "more of the likeliest tokens than there may be");
  }
  if (batch.num_tokens() > options_.max_batch_tokens) Violation(batch, "over the token budget");
  if (!batches_.empty() && batch.step != batches_.back().step + 1) {
    Violation(batch, "steps are not consecutive");
  }
  const absl::StatusOr<Batch> copy = Batch::Deserialize(batch.Serialize());
  if (!copy.ok() || *copy != batch) Violation(batch, "does not survive its flat form");
}

// False where the chunk can not be carried out at all.
bool FakeModelRunner::CheckChunk(const Batch& batch, const SequenceChunk& chunk, BlockUses& used) {
  if (chunk.tokens.empty() || chunk.start < 0) return Violation(batch, "an empty chunk");
  if (chunk.dp_rank < 0 || chunk.dp_rank >= options_.num_dp_groups) {
    return Violation(batch, "no such dp group");
  }
  if (chunk.end() > options_.max_context) Violation(batch, "a position beyond the context");
  if (chunk.end() > static_cast<int32_t>(chunk.blocks.size()) * options_.block_size) {
    return Violation(batch, "the block table is too short");
  }
  for (size_t i = 0; i < chunk.blocks.size(); ++i) {
    const int32_t block = chunk.blocks[i];
    if (block < 0 || block >= options_.num_kv_blocks) {
      return Violation(batch, "no such block");
    }
    const bool writes = static_cast<int32_t>(i + 1) * options_.block_size > chunk.start;
    const auto [it, first] = used.emplace(std::pair(chunk.dp_rank, block), writes);
    if (!first && (it->second || writes)) Violation(batch, "a block that is written is shared");
  }
  return true;
}

int32_t& FakeModelRunner::Slot(const SequenceChunk& chunk, int32_t position) {
  const int32_t block = chunk.blocks[position / options_.block_size];
  return cache_[chunk.dp_rank][block * options_.block_size + position % options_.block_size];
}

// The first `length` tokens of the chunk's sequence, as the cache has them.
std::vector<int32_t> FakeModelRunner::History(const Batch& batch, const SequenceChunk& chunk,
                                              int32_t length) {
  std::vector<int32_t> history;
  for (int32_t position = 0; position < length; ++position) {
    history.push_back(Slot(chunk, position));
    if (history.back() == kUnwritten) Violation(batch, "reads a position that was never written");
  }
  return history;
}

}  // namespace intermix::testing
