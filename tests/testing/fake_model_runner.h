// FakeModelRunner: a ModelRunner without a model, for tests of what stands on top of one.
//
// Its KV cache holds the tokens themselves, in blocks, and its logits are a hash of the whole
// history that it reads back through the chunk's block table. So a wrong table, a wrong start, a
// shared block, or a position that was never written gives other tokens, as it would with a real
// model; and what it can name it also reports in `violations`. FakeLogits gives the same rows
// without any cache: an oracle that knows nothing of batches, blocks or steps.
//
// Stepped by one thread; read its results after that thread has ended.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/engine/model_runner.h"
#include "runtime/engine/request.h"

namespace intermix::testing {

struct FakeModelOptions {
  int32_t vocab_size = 101;
  int32_t max_context = 256;
  int32_t num_dp_groups = 1;
  int32_t num_kv_blocks = 64;
  int32_t block_size = 4;
  int32_t max_batch_tokens = 1 << 20;  // more in one batch is a violation
  int32_t nan_token = -1;              // a history that ends with it gives a row with a NaN
};

// Logits after `history`: [vocab_size], without ties, a pure function of all its tokens.
std::vector<float> FakeLogits(std::span<const int32_t> history, const FakeModelOptions& options);

// What a request should get, computed one token at a time with no engine.
struct Expected {
  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;  // where asked for
  bool stopped = false;                 // by one of stop_token_ids
};
Expected ExpectedTokens(const std::vector<int32_t>& prompt, const SamplingParams& sampling,
                        const FakeModelOptions& options, int32_t choice = 0);
std::vector<TokenLogprobs> ExpectedPromptLogprobs(const std::vector<int32_t>& prompt, int32_t top,
                                                  const FakeModelOptions& options);

class FakeModelRunner final : public ModelRunner {
 public:
  explicit FakeModelRunner(const FakeModelOptions& options);

  int32_t vocab_size() const override { return options_.vocab_size; }
  int32_t max_context() const override { return options_.max_context; }
  int32_t num_dp_groups() const override { return options_.num_dp_groups; }
  int32_t num_kv_blocks() const override { return options_.num_kv_blocks; }
  int32_t block_size() const override { return options_.block_size; }
  void Start(const Batch& batch) override;
  StepLogits Finish() override;
  void Stop() override;

  // Called in every Start, and in every Finish before anything else, on the stepping thread.
  std::function<void(const Batch&)> on_start;
  std::function<void(const Batch&)> on_step;

  const FakeModelOptions& options() const { return options_; }
  const std::vector<Batch>& batches() const { return batches_; }  // as they were stepped
  const std::vector<std::string>& violations() const { return violations_; }
  bool stopped() const { return stopped_; }

 private:
  // Blocks of the batch's chunks by group and number, and whether they are written.
  using BlockUses = std::map<std::pair<int32_t, int32_t>, bool>;

  bool Violation(const Batch& batch, const std::string& what);  // false
  void CheckBatch(const Batch& batch);
  bool CheckChunk(const Batch& batch, const SequenceChunk& chunk, BlockUses& used);
  void AddRow(const std::vector<float>& logits, int32_t likeliest);
  int32_t& Slot(const SequenceChunk& chunk, int32_t position);
  std::vector<int32_t> History(const Batch& batch, const SequenceChunk& chunk, int32_t length);

  FakeModelOptions options_;
  const Batch* started_ = nullptr;
  std::vector<std::vector<int32_t>> cache_;  // [num_dp_groups][num_kv_blocks * block_size] tokens
  std::vector<float> logits_;                // [rows, vocab_size], or of the likeliest
  std::vector<int32_t> ids_;                 // of the likeliest
  std::vector<Batch> batches_;
  std::vector<std::string> violations_;
  bool stopped_ = false;
};

}  // namespace intermix::testing
