// What the engine does for a step of the model: scheduling, sampling, delivery and all else, with a
// model that answers at once; and `waited_us`, the part of it that ranks wait for. Arguments:
// sequences, vocabulary, and how tokens are chosen: the likeliest, any by its probability, or of
// those that make up nine tenths.
#include <random>
#include <thread>
#include <vector>

#include "benchmark/benchmark.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/model_runner.h"

namespace intermix {
namespace {

// Logits that are there already, the same for every row. Of a vocabulary of 32,000 the first token
// has three fifths of the probability, and many share the rest.
class InstantModel final : public ModelRunner {
 public:
  InstantModel(int32_t vocab_size, int rows)
      : vocab_size_(vocab_size), logits_(static_cast<size_t>(vocab_size) * rows) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 2.5f);
    for (int32_t id = 0; id < vocab_size; ++id) logits_[id] = id == 0 ? 14.0f : normal(random);
    for (size_t i = vocab_size; i < logits_.size(); ++i) logits_[i] = logits_[i - vocab_size];
  }
  int32_t vocab_size() const override { return vocab_size_; }
  int32_t max_context() const override { return 4096; }
  int32_t num_dp_groups() const override { return 1; }
  int32_t num_kv_blocks() const override { return 1 << 16; }
  int32_t block_size() const override { return 16; }
  void Start(const Batch& batch) override {
    if (last_ != absl::InfinitePast()) waited_ += absl::Now() - last_;
    batch_ = &batch;
  }
  StepLogits Finish() override {
    const StepLogits logits = Logits(*batch_);
    last_ = absl::Now();
    return logits;
  }
  absl::Duration waited() const { return waited_; }
  void Stop() override {}

 private:
  StepLogits Logits(const Batch& batch) {
    const int64_t rows = batch.num_logits_rows();
    if (batch.likeliest == 0) {
      return {.values = Tensor(logits_.data(), DType::kF32, {rows, vocab_size_}), .ids = {}};
    }
    ids_.resize(static_cast<size_t>(rows), 0);
    CHECK_EQ(batch.likeliest, 1);
    return {.values = Tensor(logits_.data(), DType::kF32, {rows, 1}),
            .ids = Tensor(ids_.data(), DType::kI32, {rows, 1})};
  }

  int32_t vocab_size_ = 0;
  std::vector<float> logits_;
  std::vector<int32_t> ids_;
  const Batch* batch_ = nullptr;
  absl::Time last_ = absl::InfinitePast();  // when a step ended
  absl::Duration waited_;                   // for the next one
};

enum Choice { kLikeliest, kAny, kNineTenths };

void EngineStep(benchmark::State& state) {
  const auto sequences = static_cast<int>(state.range(0));
  const auto vocab = static_cast<int32_t>(state.range(1));
  const auto choice = static_cast<Choice>(state.range(2));
  const int32_t tokens = choice == kLikeliest ? 2000 : 100;
  state.SetLabel(choice == kLikeliest ? "likeliest" : choice == kAny ? "any" : "nine tenths");
  double waited_us = 0;
  for (auto _ : state) {
    InstantModel model(vocab, sequences);
    Engine engine({.max_running = sequences}, model);
    std::vector<std::shared_ptr<RequestStream>> streams;
    for (int i = 0; i < sequences; ++i) {
      streams.push_back(
          *engine.Submit({.prompt = {1, 2, 3},
                          .sampling = {.temperature = choice == kLikeliest ? 0.0f : 1.0f,
                                       .top_p = choice == kNineTenths ? 0.9f : 1.0f,
                                       .seed = static_cast<uint64_t>(i),
                                       .max_tokens = tokens}}));
    }
    const absl::Time start = absl::Now();
    std::thread thread([&engine] { engine.Run(); });
    for (const auto& stream : streams) {
      while (!stream->Next().finished) {
      }
    }
    state.SetIterationTime(absl::ToDoubleSeconds(absl::Now() - start) / tokens);
    engine.Shutdown();
    thread.join();
    waited_us += absl::ToDoubleMicroseconds(model.waited()) / tokens;
  }
  state.counters["waited_us"] = {waited_us, benchmark::Counter::kAvgIterations};
}
BENCHMARK(EngineStep)
    ->ArgsProduct({{1, 16, 64}, {2048, 32000}, {kLikeliest, kAny, kNineTenths}})
    ->UseManualTime()
    ->Iterations(3)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace intermix

BENCHMARK_MAIN();
