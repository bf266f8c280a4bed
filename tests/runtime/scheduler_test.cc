// Scheduler: what a step holds, who goes first, who is put back.
#include "runtime/engine/scheduler.h"

#include <limits>
#include <numeric>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int32_t kNewToken = 7;

// Drives a scheduler as the engine does, with a model that always says kNewToken.
class Driver {
 public:
  explicit Driver(const SchedulerOptions& options, bool prepares = true)
      : scheduler_(options), prepares_(prepares) {}

  // Ten seconds make up for a level of priority, and a second passes with each arrival.
  Sequence* Add(int num_prompt_tokens, int max_tokens = 100, int priority = 0) {
    auto sequence = std::make_unique<Sequence>();
    Sequence* raw = sequence.get();
    sequence->arrival = next_arrival_++;
    sequence->first_choice = sequence->arrival;
    sequence->priority = priority;
    sequence->due_ms = 1000 * sequence->arrival - 10000 * priority;
    sequence->tokens.resize(num_prompt_tokens);
    std::iota(sequence->tokens.begin(), sequence->tokens.end(), 1000 * (sequence->arrival + 1));
    sequence->num_prompt_tokens = num_prompt_tokens;
    sequence->max_length = *scheduler_.MaxLength(num_prompt_tokens, max_tokens);
    scheduler_.Add(std::move(sequence));
    return raw;
  }

  // One step; returns its plan's batch. Sequences at their max_length are removed.
  Batch Step() {
    const StepPlan plan = scheduler_.Schedule(step_++);
    EXPECT_EQ(plan.sequences.size(), plan.batch.chunks.size());
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      const std::vector<int32_t>& blocks = plan.batch.chunks[i].blocks;
      EXPECT_TRUE(
          std::ranges::equal(blocks, std::span(plan.sequences[i]->kv.blocks).first(blocks.size())));
    }
    if (prepares_) scheduler_.PrepareNext(plan);
    scheduler_.MarkStepped(plan);
    for (size_t i = 0; i < plan.sequences.size(); ++i) {
      Sequence& sequence = *plan.sequences[i];
      const SequenceChunk& chunk = plan.batch.chunks[i];
      const bool last = chunk.end() == sequence.length();
      EXPECT_EQ(chunk.logits, sequence.wants_prompt_logprobs() ? LogitsWanted::kAll
                              : last                           ? LogitsWanted::kLast
                                                               : LogitsWanted::kNone);
      if (!last) continue;
      sequence.tokens.push_back(kNewToken);
      if (sequence.length() == sequence.max_length) scheduler_.Remove(sequence);
    }
    return plan.batch;
  }

  // Tokens in each chunk of the next step.
  std::vector<int> StepSizes() {
    std::vector<int> sizes;
    for (const SequenceChunk& chunk : Step().chunks) {
      sizes.push_back(static_cast<int>(chunk.tokens.size()));
    }
    return sizes;
  }

  Scheduler& scheduler() { return scheduler_; }

 private:
  Scheduler scheduler_;
  bool prepares_;
  int64_t next_arrival_ = 0;
  int64_t step_ = 0;
};

SchedulerOptions Options() {
  return {.max_batch_tokens = 8,
          .max_running = 4,
          .max_context = 64,
          .num_blocks = 32,
          .block_size = 4,
          .cache_prefixes = false};
}

TEST(SchedulerTest, CutsALongPromptIntoChunksOfTheBudget) {
  Driver driver(Options());
  driver.Add(19, 2);
  const Batch first = driver.Step();
  ASSERT_EQ(first.chunks.size(), 1);
  EXPECT_EQ(first.chunks[0].start, 0);
  EXPECT_EQ(first.chunks[0].tokens.size(), 8);
  EXPECT_EQ(first.chunks[0].tokens[3], 1003);
  EXPECT_EQ(first.chunks[0].blocks.size(), 2) << "no more of the table than the chunk reaches";
  EXPECT_EQ(first.chunks[0].logits, LogitsWanted::kNone);
  const Batch second = driver.Step();
  EXPECT_EQ(second.chunks[0].start, 8);
  EXPECT_EQ(second.chunks[0].blocks.size(), 4);
  const Batch third = driver.Step();
  EXPECT_EQ(third.chunks[0].start, 16);
  EXPECT_EQ(third.chunks[0].tokens.size(), 3);
  EXPECT_EQ(third.chunks[0].logits, LogitsWanted::kLast);
  const Batch decode = driver.Step();
  EXPECT_EQ(decode.chunks[0].start, 19);
  EXPECT_THAT(decode.chunks[0].tokens, ElementsAre(kNewToken));
  EXPECT_THAT(driver.Step().chunks, IsEmpty());
  EXPECT_EQ(driver.scheduler().num_free_blocks(), 32);
}

// Logits of every position of a long chunk would take too much memory.
TEST(SchedulerTest, CutsAPromptWhoseLogprobsAreWantedIntoSmallChunks) {
  SchedulerOptions options = Options();
  options.max_batch_tokens = 200;
  options.max_context = 256;
  options.num_blocks = 64;
  Driver driver(options);
  driver.Add(150, 2)->sampling.prompt_logprobs = 0;
  EXPECT_THAT(driver.StepSizes(), ElementsAre(64));
  EXPECT_THAT(driver.StepSizes(), ElementsAre(64));
  EXPECT_THAT(driver.StepSizes(), ElementsAre(22));
}

TEST(SchedulerTest, DecodesFirstThenPromptsInOrderOfArrival) {
  Driver driver(Options());
  driver.Add(2);
  EXPECT_THAT(driver.StepSizes(), ElementsAre(2));
  driver.Add(11);
  driver.Add(3);
  // One decode; the second prompt takes what is left, then its rest, then the third has room.
  EXPECT_THAT(driver.StepSizes(), ElementsAre(1, 7));
  EXPECT_THAT(driver.StepSizes(), ElementsAre(1, 4, 3));
  EXPECT_THAT(driver.StepSizes(), ElementsAre(1, 1, 1));
}

TEST(SchedulerTest, RunsAtMostMaxRunningAndMaxBatchTokensSequences) {
  Driver driver(Options());
  for (int i = 0; i < 6; ++i) driver.Add(1);
  EXPECT_EQ(driver.Step().chunks.size(), 4);
  EXPECT_EQ(driver.scheduler().num_waiting(), 2);

  SchedulerOptions narrow = Options();
  narrow.max_batch_tokens = 3;
  Driver small(narrow);
  for (int i = 0; i < 6; ++i) small.Add(1);
  for (int i = 0; i < 5; ++i) EXPECT_THAT(small.StepSizes(), ElementsAre(1, 1, 1));
}

TEST(SchedulerTest, AWaitingSequenceIsNotOvertaken) {
  SchedulerOptions options = Options();
  options.num_blocks = 8;
  Driver driver(options);
  driver.Add(16, 4);  // 4 of 8 blocks
  driver.Add(24, 4);  // 6: must wait
  driver.Add(1, 4);   // would fit, but came later
  driver.Step();
  driver.Step();
  EXPECT_EQ(driver.scheduler().num_running(), 1);
  EXPECT_EQ(driver.scheduler().num_waiting(), 2);
}

TEST(SchedulerTest, AdmissionLeavesABlockForEachRunningSequence) {
  SchedulerOptions options = Options();
  options.num_blocks = 4;
  Driver driver(options);
  driver.Add(8, 5);  // 2 blocks, 3 later
  driver.Add(8, 5);  // 2 blocks: the cache would be full, and the first needs one at its next token
  driver.Step();
  EXPECT_EQ(driver.scheduler().num_running(), 1);
  for (int i = 0; i < 20; ++i) driver.Step();
  EXPECT_EQ(driver.scheduler().num_running() + driver.scheduler().num_waiting(), 0);
  EXPECT_EQ(driver.scheduler().num_preemptions(), 0);
}

TEST(SchedulerTest, PreemptsTheYoungestAndPrefillsItsPromptAndOutputAgain) {
  SchedulerOptions options = Options();
  options.num_blocks = 7;
  options.max_batch_tokens = 16;
  Driver driver(options);
  Sequence* oldest = driver.Add(4, 20);
  Sequence* youngest = driver.Add(4, 20);
  while (driver.scheduler().num_preemptions() == 0) driver.Step();
  EXPECT_EQ(driver.scheduler().num_running(), 1);
  EXPECT_FALSE(oldest->kv.blocks.empty());
  EXPECT_TRUE(youngest->kv.blocks.empty());
  const std::vector<int32_t> tokens = youngest->tokens;
  EXPECT_GT(tokens.size(), 5);
  // The oldest goes on; when it has ended the other one's tokens are all computed again, as a
  // prompt.
  for (int i = 0; i < 40; ++i) {
    const Batch batch = driver.Step();
    if (batch.chunks.size() == 1 && batch.chunks[0].start == 0) {
      EXPECT_EQ(batch.chunks[0].tokens, tokens);
      EXPECT_EQ(batch.chunks[0].logits, LogitsWanted::kLast);
      return;
    }
  }
  FAIL() << "the preempted sequence did not come back";
}

TEST(SchedulerTest, EverySequenceEndsHoweverSmallTheCache) {
  for (int num_blocks : {6, 7, 9, 13}) {
    SchedulerOptions options = Options();
    options.num_blocks = num_blocks;
    Driver driver(options);
    for (int i = 0; i < 12; ++i) driver.Add(1 + (7 * i) % 13, 3 + (5 * i) % 11);
    int steps = 0;
    while (driver.scheduler().num_running() + driver.scheduler().num_waiting() > 0) {
      ASSERT_LT(steps++, 2000) << num_blocks;
      ASSERT_FALSE(driver.Step().chunks.empty()) << "a step that does nothing";
    }
    EXPECT_EQ(driver.scheduler().num_free_blocks(), num_blocks);
  }
}

TEST(SchedulerTest, PreparesWhatWillDecode) {
  Driver driver(Options());
  Sequence* sequence = driver.Add(3, 10);
  driver.Step();
  ASSERT_TRUE(sequence->prepared.has_value());
  const SequenceChunk decode = {.start = 3,
                                .logits = LogitsWanted::kLast,
                                .tokens = {kNewToken},
                                .blocks = sequence->kv.blocks};
  EXPECT_THAT(driver.Step().chunks, ElementsAre(decode));
  EXPECT_EQ(sequence->kv.blocks.size(), 2) << "its fifth token has a place already";
}

// Also where blocks run out, so that prepared sequences are preempted. Only which of the blocks
// they get may differ.
TEST(SchedulerTest, PreparingAStepChangesNoneOfThem) {
  SchedulerOptions options = Options();
  options.num_blocks = 18;
  options.num_dp_groups = 2;
  options.cache_prefixes = true;
  for (unsigned seed = 1; seed <= 20; ++seed) {
    Driver prepared(options);
    Driver unprepared(options, false);
    std::minstd_rand random(seed);
    for (int step = 0; step < 1000; ++step) {
      if (random() % 8 == 0) {
        const int prompt = 1 + static_cast<int>(random() % 20);
        const int priority = static_cast<int>(random() % 3);
        prepared.Add(prompt, 30, priority);
        unprepared.Add(prompt, 30, priority);
      }
      Batch batch = prepared.Step();
      Batch other = unprepared.Step();
      for (Batch* each : {&batch, &other}) {
        for (SequenceChunk& chunk : each->chunks) chunk.blocks.assign(chunk.blocks.size(), 0);
      }
      ASSERT_EQ(batch, other) << "seed " << seed << ", step " << step;
    }
    EXPECT_GT(prepared.scheduler().num_preemptions(), 10);
    EXPECT_GT(prepared.scheduler().num_hit_tokens(), 10);
  }
}

TEST(SchedulerTest, SpreadsSequencesOverTheGroupsByFreeBlocks) {
  SchedulerOptions options = Options();
  options.num_dp_groups = 2;
  options.max_batch_tokens = 64;
  Driver driver(options, false);
  Sequence* a = driver.Add(20);
  Sequence* b = driver.Add(4);
  Sequence* c = driver.Add(4);
  Sequence* d = driver.Add(20);
  const Batch batch = driver.Step();
  EXPECT_EQ(a->dp_rank, 0);
  EXPECT_EQ(b->dp_rank, 1);
  EXPECT_EQ(c->dp_rank, 1);
  EXPECT_EQ(d->dp_rank, 1);
  EXPECT_EQ(batch.chunks[2].dp_rank, 1);
  EXPECT_EQ(driver.scheduler().num_total_blocks(), 64);
  EXPECT_EQ(driver.scheduler().num_free_blocks(), 64 - 5 - 1 - 1 - 5);
}

TEST(SchedulerTest, PreemptsInTheGroupThatRanOut) {
  SchedulerOptions options = Options();
  options.num_dp_groups = 2;
  options.num_blocks = 6;
  options.max_batch_tokens = 64;
  Driver driver(options);
  Sequence* a = driver.Add(8, 16);  // group 0
  Sequence* b = driver.Add(4, 3);   // group 1
  Sequence* c = driver.Add(4, 16);  // group 1
  Sequence* d = driver.Add(5, 16);  // group 0 or 1, whichever has more room
  driver.Step();
  ASSERT_EQ(a->dp_rank, 0);
  ASSERT_EQ(b->dp_rank, 1);
  ASSERT_EQ(c->dp_rank, 1);
  ASSERT_EQ(d->dp_rank, 0);
  while (driver.scheduler().num_preemptions() == 0) driver.Step();
  EXPECT_TRUE(d->kv.blocks.empty()) << "the youngest of group 0";
  EXPECT_FALSE(c->kv.blocks.empty()) << "group 1 had room";
}

TEST(SchedulerTest, AdmitsByPriorityThenByArrival) {
  SchedulerOptions options = Options();
  options.max_running = 1;
  Driver driver(options);
  Sequence* low = driver.Add(1, 2, -1);
  Sequence* normal = driver.Add(1, 2);
  Sequence* high = driver.Add(1, 2, 1);
  Sequence* high_too = driver.Add(1, 2, 1);
  for (const Sequence* next : {high, high_too, normal, low}) {
    const StepPlan plan = driver.scheduler().Schedule(0);
    ASSERT_EQ(plan.sequences.size(), 1);
    EXPECT_EQ(plan.sequences[0], next);
    driver.scheduler().Remove(*next);
  }
}

TEST(SchedulerTest, WaitingMakesUpForALowerPriority) {
  SchedulerOptions options = Options();
  options.max_running = 1;
  Driver driver(options);
  Sequence* low = driver.Add(1, 2, 0);
  for (int i = 0; i < 12; ++i) driver.Add(1, 2, 1);
  int before = 0;
  while (low->kv.num_cached == 0) before += driver.Step().chunks.size();
  // Those that came in less than ten seconds go first: nine, of two tokens each.
  EXPECT_EQ(before, 2 * 9 + 1);
}

TEST(SchedulerTest, AHigherPriorityTakesTheRoomOfTheYoungestOfTheLowest) {
  SchedulerOptions options = Options();
  options.num_blocks = 11;
  options.max_batch_tokens = 64;
  Driver driver(options);
  Sequence* lowest = driver.Add(8, 8, -1);
  Sequence* old = driver.Add(8, 8);
  Sequence* young = driver.Add(8, 8);
  driver.Step();
  ASSERT_EQ(driver.scheduler().num_running(), 3);
  Sequence* high = driver.Add(12, 8, 5);
  driver.Step();
  EXPECT_FALSE(high->kv.blocks.empty());
  EXPECT_TRUE(lowest->kv.blocks.empty()) << "older than all, but of the lowest priority";
  EXPECT_FALSE(old->kv.blocks.empty());
  EXPECT_FALSE(young->kv.blocks.empty());
  EXPECT_EQ(driver.scheduler().num_preemptions(), 1);
}

TEST(SchedulerTest, AHigherPriorityTakesAPlaceAmongTheRunning) {
  SchedulerOptions options = Options();
  options.max_running = 2;
  Driver driver(options);
  driver.Add(2);
  Sequence* young = driver.Add(2);
  driver.Step();
  Sequence* same = driver.Add(2);
  driver.Step();
  EXPECT_TRUE(same->kv.blocks.empty()) << "the same priority waits";
  Sequence* high = driver.Add(2, 100, 3);
  driver.Step();
  EXPECT_FALSE(high->kv.blocks.empty());
  EXPECT_TRUE(young->kv.blocks.empty());
  EXPECT_EQ(driver.scheduler().num_preemptions(), 1);
}

TEST(SchedulerTest, PreemptsNobodyForWhatStillWouldNotFit) {
  SchedulerOptions options = Options();
  options.num_blocks = 8;
  options.max_batch_tokens = 64;
  Driver driver(options);
  driver.Add(16, 8, 9);
  driver.Add(4, 8);
  driver.Step();
  driver.Add(28, 2, 5);  // 7 blocks; the first one holds 4 and does not yield
  driver.Step();
  EXPECT_EQ(driver.scheduler().num_preemptions(), 0);
  EXPECT_EQ(driver.scheduler().num_running(), 2);
}

TEST(SchedulerTest, MakesWayAlsoForTheBlocksThatRunningSequencesAreAboutToTake) {
  SchedulerOptions options = Options();
  options.num_blocks = 10;
  options.max_batch_tokens = 64;
  Driver driver(options);
  driver.Add(4, 8, 9);
  for (int i = 0; i < 2; ++i) driver.Add(4, 8);
  driver.Step();  // each holds one block that is full
  Sequence* high = driver.Add(12, 8, 5);
  driver.Step();
  EXPECT_FALSE(high->kv.blocks.empty()) << "7 are free, but 3 of them for less than a step";
  EXPECT_EQ(driver.scheduler().num_preemptions(), 1);
}

TEST(SchedulerTest, PreemptsNobodyWhereAnotherGroupHasRoom) {
  SchedulerOptions options = Options();
  options.num_dp_groups = 2;
  options.num_blocks = 8;
  options.max_batch_tokens = 64;
  Driver driver(options);
  Sequence* low = driver.Add(20, 8);
  Sequence* other = driver.Add(4, 8, 9);
  driver.Step();
  ASSERT_NE(low->dp_rank, other->dp_rank);
  Sequence* high = driver.Add(16, 8, 5);
  driver.Step();
  EXPECT_EQ(high->dp_rank, other->dp_rank);
  EXPECT_FALSE(high->kv.blocks.empty());
  EXPECT_EQ(driver.scheduler().num_preemptions(), 0);
}

TEST(SchedulerTest, PreemptsNobodyForBlocksThatOthersKeep) {
  SchedulerOptions options = Options();
  options.num_blocks = 10;
  options.max_batch_tokens = 64;
  options.cache_prefixes = true;
  Driver driver(options);
  Sequence* keeps = driver.Add(18, 8, 9);
  driver.Step();
  Sequence* shares = driver.Add(18, 8);
  shares->tokens = std::vector<int32_t>(keeps->tokens.begin(), keeps->tokens.begin() + 18);
  driver.Step();
  ASSERT_EQ(driver.scheduler().num_free_blocks(), 4) << "they share four blocks";
  driver.Add(24, 8, 5);  // 6 blocks
  driver.Step();
  EXPECT_EQ(driver.scheduler().num_preemptions(), 0);
  EXPECT_EQ(driver.scheduler().num_running(), 2);
}

TEST(SchedulerTest, StartsBehindACachedPrefix) {
  SchedulerOptions options = Options();
  options.cache_prefixes = true;
  options.max_batch_tokens = 64;
  Driver driver(options);
  Sequence* first = driver.Add(10, 100);
  driver.Step();
  Sequence* second = driver.Add(10, 100);
  second->tokens = first->tokens;
  second->tokens.resize(10);
  const Batch batch = driver.Step();
  ASSERT_EQ(batch.chunks.size(), 2);
  EXPECT_EQ(batch.chunks[1].start, 8);
  EXPECT_EQ(batch.chunks[1].tokens.size(), 2);
  EXPECT_EQ(batch.chunks[1].blocks[1], batch.chunks[0].blocks[1]);
  EXPECT_NE(batch.chunks[1].blocks[2], batch.chunks[0].blocks[2]);
  EXPECT_EQ(driver.scheduler().num_hit_tokens(), 8);

  Sequence* asks = driver.Add(10, 100);
  asks->tokens = second->tokens;
  asks->tokens.resize(10);
  asks->sampling.prompt_logprobs = 0;
  EXPECT_EQ(driver.Step().chunks[2].start, 0) << "it needs the logits of every position";
}

TEST(SchedulerTest, OtherAnswersWaitForThePromptThatTheyShare) {
  SchedulerOptions options = Options();
  options.cache_prefixes = true;
  Driver driver(options);
  Sequence* first = driver.Add(13, 3);
  for (int choice = 1; choice <= 2; ++choice) {
    Sequence* other = driver.Add(13, 3);
    other->tokens = first->tokens;
    other->choice = choice;
    other->first_choice = first->arrival;
  }
  EXPECT_THAT(driver.StepSizes(), ElementsAre(8));
  EXPECT_THAT(driver.StepSizes(), ElementsAre(5));
  EXPECT_THAT(driver.StepSizes(), ElementsAre(1, 1, 1)) << "three of four blocks are shared";
}

TEST(SchedulerTest, RemovesRunningAndWaitingSequences) {
  Driver driver(Options());
  Sequence* running = driver.Add(20);
  driver.Step();
  Sequence* waiting = driver.Add(20);
  driver.scheduler().Remove(*waiting);
  driver.scheduler().Remove(*running);
  EXPECT_EQ(driver.scheduler().num_free_blocks(), 32);
  EXPECT_THAT(driver.Step().chunks, IsEmpty());
}

TEST(SchedulerTest, ClampsTheLengthToTheContext) {
  const Scheduler scheduler(Options());
  EXPECT_EQ(*scheduler.MaxLength(10, 5), 15);
  EXPECT_EQ(*scheduler.MaxLength(10, 1000), 64);
  EXPECT_EQ(*scheduler.MaxLength(63, std::numeric_limits<int32_t>::max()), 64);
}

TEST(SchedulerTest, RefusesWithNumbersWhatCanNeverFit) {
  const Scheduler scheduler(Options());
  const absl::Status too_long = scheduler.MaxLength(64, 1).status();
  EXPECT_EQ(too_long.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(too_long.message(), HasSubstr("the prompt has 64 tokens; a context of 64"));

  SchedulerOptions options = Options();
  options.num_blocks = 5;
  const Scheduler small(options);
  EXPECT_TRUE(small.MaxLength(10, 11).ok())
      << "20 positions in 5 blocks: the last is never fed back";
  const absl::Status too_big = small.MaxLength(10, 12).status();
  EXPECT_EQ(too_big.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(too_big.message(), HasSubstr("needs 6 KV blocks of 4 positions"));
  EXPECT_THAT(too_big.message(), HasSubstr("the whole cache has 5"));
}

}  // namespace
}  // namespace intermix
