#include "tests/testing/scripted_run.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>

#include "gtest/gtest.h"
#include "kernels/core/check.h"
#include "tests/testing/run_ranks.h"

namespace intermix {
namespace {

// One sequence under way.
struct Live {
  std::vector<int32_t> tokens;  // prompt and output
  size_t prompt_size = 0;
  int32_t computed = 0;  // positions in the cache
  bool replayed = false;
  int32_t dp_rank = 0;
  std::vector<int32_t> blocks;
  SequenceTrace trace;

  bool decoding() const { return computed + 1 == static_cast<int32_t>(tokens.size()); }
};

class Script {
 public:
  Script(ModelRunner& runner, const std::vector<std::vector<int32_t>>& prompts, int num_tokens,
         const Ride& ride)
      : runner_(runner), num_tokens_(num_tokens), ride_(ride) {
    std::vector<int32_t> next_block(runner.num_dp_groups(), 0);
    for (const std::vector<int32_t>& prompt : prompts) {
      Live live = {.tokens = prompt, .prompt_size = prompt.size()};
      live.dp_rank = static_cast<int32_t>(sequences_.size()) % runner.num_dp_groups();
      const int32_t positions = static_cast<int32_t>(prompt.size()) + num_tokens;
      for (int32_t p = 0; p < positions; p += runner.block_size()) {
        live.blocks.push_back(next_block[live.dp_rank]);
        next_block[live.dp_rank] += ride.block_stride;
      }
      CHECK_LE(next_block[live.dp_rank], runner.num_kv_blocks());
      sequences_.push_back(std::move(live));
    }
  }

  std::vector<SequenceTrace> Run() {
    if (ride_.together) {
      StepUntilDone(0, sequences_.size());
    } else {
      for (size_t i = 0; i < sequences_.size(); ++i) StepUntilDone(i, i + 1);
    }
    std::vector<SequenceTrace> traces;
    for (Live& live : sequences_) traces.push_back(std::move(live.trace));
    return traces;
  }

 private:
  bool Done(const Live& live) const {
    return static_cast<int>(live.trace.tokens.size()) == num_tokens_;
  }

  // Whether a sequence may ride already: with decode_with_prefill, once the one before it decodes.
  bool Started(size_t i, size_t first) const {
    if (!ride_.decode_with_prefill || i == first) return true;
    const Live& before = sequences_[i - 1];
    return before.trace.tokens.size() >= 2;
  }

  void StepUntilDone(size_t first, size_t last) {
    for (;;) {
      Batch batch = {.step = ++step_, .likeliest = ride_.likeliest};
      std::vector<Live*> riders;
      for (size_t i = first; i < last; ++i) {
        if (Done(sequences_[i]) || !Started(i, first)) continue;
        riders.push_back(&sequences_[i]);
        batch.chunks.push_back(NextChunk(sequences_[i]));
      }
      if (riders.empty()) return;
      Advance(batch, riders, runner_.Step(batch));
    }
  }

  SequenceChunk NextChunk(Live& live) {
    if (ride_.replay_from > 0 && !live.replayed &&
        static_cast<int>(live.trace.tokens.size()) == ride_.replay_from) {
      live.replayed = true;
      live.computed = 0;
      std::ranges::reverse(live.blocks);  // a resumed sequence gets other blocks
    }
    const int32_t total = static_cast<int32_t>(live.tokens.size());
    const int32_t end = std::min(total, live.computed + ride_.chunk_tokens);
    const auto tokens = live.tokens.begin();
    return {.dp_rank = live.dp_rank,
            .start = live.computed,
            .logits = end == total ? LogitsWanted::kLast : LogitsWanted::kNone,
            .tokens = {tokens + live.computed, tokens + end},
            .blocks = live.blocks};
  }

  void Advance(const Batch& batch, const std::vector<Live*>& riders, const StepLogits& logits) {
    CHECK_EQ(logits.values.rows(), batch.num_logits_rows());
    const int32_t count = batch.likeliest > 0 ? batch.likeliest : runner_.vocab_size();
    CHECK_EQ(logits.values.cols(), count);
    int64_t row = 0;
    for (size_t i = 0; i < riders.size(); ++i) {
      Live& live = *riders[i];
      live.computed = batch.chunks[i].end();
      if (batch.chunks[i].logits != LogitsWanted::kLast) continue;
      const float* values = logits.values.row<float>(row);
      const float* end = values + count;
      int32_t token = static_cast<int32_t>(std::max_element(values, end) - values);
      live.trace.logits.insert(live.trace.logits.end(), values, end);
      if (batch.likeliest > 0) {
        const int32_t* ids = logits.ids.row<int32_t>(row);
        token = ids[0];
        live.trace.ids.insert(live.trace.ids.end(), ids, ids + count);
      }
      ++row;
      live.trace.tokens.push_back(token);
      live.tokens.push_back(token);
    }
  }

  ModelRunner& runner_;
  int num_tokens_;
  Ride ride_;
  int64_t step_ = 0;
  std::vector<Live> sequences_;
};

}  // namespace

SequenceTrace LikeliestOf(const SequenceTrace& trace, int32_t count) {
  SequenceTrace likeliest = {.tokens = trace.tokens};
  const size_t vocab_size = trace.logits.size() / trace.tokens.size();
  for (size_t i = 0; i < trace.tokens.size(); ++i) {
    const std::span<const float> row = std::span(trace.logits).subspan(i * vocab_size, vocab_size);
    std::vector<int32_t> ids(vocab_size);
    std::iota(ids.begin(), ids.end(), 0);
    std::ranges::stable_sort(ids, [row](int32_t a, int32_t b) { return row[a] > row[b]; });
    ids.resize(static_cast<size_t>(count));
    for (int32_t id : ids) likeliest.logits.push_back(row[id]);
    likeliest.ids.insert(likeliest.ids.end(), ids.begin(), ids.end());
  }
  return likeliest;
}

std::vector<SequenceTrace> RunSequences(ModelRunner& runner,
                                        const std::vector<std::vector<int32_t>>& prompts,
                                        int num_tokens, const Ride& ride) {
  return Script(runner, prompts, num_tokens, ride).Run();
}

std::vector<SequenceTrace> RunJob(int world, const RankOptions& options,
                                  const std::vector<std::vector<int32_t>>& prompts, int num_tokens,
                                  const Ride& ride) {
  std::vector<SequenceTrace> traces;
  RunRanks(world, [&](std::unique_ptr<Communicator> comm) {
    const bool root = comm->rank() == 0;
    absl::StatusOr<std::unique_ptr<Rank>> rank = Rank::Create(options, std::move(comm));
    ASSERT_TRUE(rank.ok()) << rank.status().ToString();
    if (!root) return (*rank)->RunWorker();
    traces = RunSequences((*rank)->runner(), prompts, num_tokens, ride);
    (*rank)->runner().Stop();
  });
  return traces;
}

}  // namespace intermix
