// MoeBlock: whatever the layout and the dispatcher, every token gets the bits that one rank gives
// it.
#include "moe/moe_block.h"

#include <atomic>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>

#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"
#include "moe/dense_mlp.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"
#include "tests/testing/run_ranks.h"

namespace intermix {
namespace {

constexpr int kExperts = 4;
constexpr int kTopK = 2;
constexpr int64_t kHidden = 64;
constexpr int64_t kIntermediate = 32;

// The tokens of a step and the model, the same for every layout.
struct Problem {
  Scheme scheme;
  std::vector<int64_t> group_tokens;  // of each dp group
  int64_t total() const {
    return std::accumulate(group_tokens.begin(), group_tokens.end(), int64_t{0});
  }
};

WeightFormat FormatOf(Scheme scheme) {
  return {.scheme = scheme, .scale_width = ScaleWidth::kFolded, .bits = 4, .group_size = 32};
}

std::unique_ptr<PackedWeight> Pack(Backend& backend, const std::vector<QuantizedWeight>& parts) {
  return *backend.Prepack(parts);
}

ExpertWeights MakeExpert(Backend& backend, Scheme scheme, int expert, Slice intermediate,
                         Slice hidden) {
  const WeightFormat format = FormatOf(scheme);
  const QuantizedWeight gate = RandomWeight(format, kIntermediate, kHidden, 10 + expert);
  const QuantizedWeight up = RandomWeight(format, kIntermediate, kHidden, 20 + expert);
  const QuantizedWeight down = RandomWeight(format, kHidden, kIntermediate, 30 + expert);
  return {.gate_up = *backend.PrepackGated(gate.RowSlice(intermediate.begin, intermediate.end),
                                           up.RowSlice(intermediate.begin, intermediate.end)),
          .down = Pack(backend, {down.RowSlice(hidden.begin, hidden.end)})};
}

struct StepTensors {
  OwnedTensor residual;  // [tokens, hidden] float32: before the block, then after it
  OwnedTensor normed;    // [tokens, hidden] float32: after it
};

StepTensors MakeStep(int64_t tokens) {
  StepTensors step = {.residual = RandomTensor(DType::kF32, {tokens, kHidden}, 2),
                      .normed = OwnedTensor::Host(DType::kF32, {tokens, kHidden})};
  if (tokens > 1) step.residual.view.row<float>(1)[3] = std::numeric_limits<float>::infinity();
  return step;
}

void ExpectSame(const StepTensors& actual, const StepTensors& expected, const std::string& what) {
  EXPECT_TRUE(BitwiseEqual(actual.residual.view, expected.residual.view)) << what;
  EXPECT_TRUE(BitwiseEqual(actual.normed.view, expected.normed.view)) << what;
}

// Runs the block on tokens [begin, begin + rows.mine.size()) of the step; where `keep`, they hold
// the result afterwards.
void RunBlock(FeedForward& block, Backend& backend, Communicator& group, const TokenRows& rows,
              int64_t begin, bool keep, StepTensors& step) {
  Workspace workspace([](size_t bytes) { return Buffer::Host(bytes); });
  const Execution exec = {.backend = backend, .workspace = workspace};
  const int64_t tokens = rows.mine.size();
  const Tensor residual = exec.Take(DType::kF32, {tokens, kHidden});
  const Tensor mine = step.residual.view.Rows(begin, begin + tokens);
  std::memcpy(residual.raw(), mine.raw(), static_cast<size_t>(mine.bytes()));
  group.Barrier();  // all have their copy
  const OwnedTensor gains = RandomTensor(DType::kF32, {kHidden}, 1);
  const Norm norm = {.weight = gains.view, .eps = 1e-5f};
  ResidualStream stream(exec, residual, {.norm = norm, .quantized = block.quantized()});
  block.Forward(exec, rows, {.norm = norm, .quantized = false}, stream);
  if (!keep) return;
  std::memcpy(mine.raw(), residual.raw(), static_cast<size_t>(mine.bytes()));
  std::memcpy(step.normed.view.Rows(begin, begin + tokens).raw(), stream.normed().values.raw(),
              static_cast<size_t>(mine.bytes()));
}

// The step after the block on `layout`; each rank's rows are put where they belong.
StepTensors RunMoe(const Problem& problem, const ParallelLayout& layout, TokenPlacement placement,
                   std::optional<int64_t> overlap_tokens = std::nullopt) {
  StepTensors step = MakeStep(problem.total());
  std::atomic<int64_t> worked = 0;  // rows of all experts, counted on each of their etp ranks
  RunRanks(layout.world, [&](std::unique_ptr<Communicator> world) {
    ParallelGroups groups = MakeParallelGroups(layout, std::move(world));
    groups.overlap_tokens = overlap_tokens;
    const int rank = groups.rank();
    const ExpertPlacement experts = {.num_experts = kExperts, .layout = layout};
    Dispatchers dispatchers = MakeDispatchers(experts, groups);
    const std::unique_ptr<Backend> backend = MakeReferenceBackend();
    std::vector<ExpertWeights> weights;
    const Slice mine = experts.experts_of_group(layout.ep_rank(rank));
    for (int64_t e = mine.begin; e < mine.end; ++e) {
      weights.push_back(MakeExpert(*backend, problem.scheme, static_cast<int>(e),
                                   Part(kIntermediate, layout.etp, layout.etp_rank(rank)),
                                   Part(kHidden, layout.etp, layout.etp_rank(rank))));
    }
    const OwnedTensor totals = OwnedTensor::Host(DType::kI32, {experts.experts_per_group()});
    MoeBlock block({.gate = RandomTensor(DType::kF32, {kExperts, kHidden}, 3),
                    .experts = std::move(weights),
                    .top_k = kTopK,
                    .totals = totals.view,
                    .etp = *groups.etp,
                    .dispatchers = dispatchers});

    const int dp_rank = layout.dp_rank(rank);
    const int64_t begin = std::accumulate(problem.group_tokens.begin(),
                                          problem.group_tokens.begin() + dp_rank, int64_t{0});
    const TokenRows rows = TensorGroup(*groups.tp).Place(problem.group_tokens, dp_rank, placement);
    // Where rows are replicated, the group's first rank keeps the result.
    const bool keep = placement == TokenPlacement::kSharded || layout.tp_rank(rank) == 0;
    RunBlock(block, *backend, *groups.world, rows, begin + rows.mine.begin, keep, step);

    for (int e = 0; e < experts.experts_per_group(); ++e) {
      worked += totals.view.data<int32_t>()[e];
    }
  });
  EXPECT_EQ(worked, problem.total() * kTopK * layout.etp);
  return step;
}

class MoeBlockTest : public testing::TestWithParam<std::tuple<Scheme, int64_t>> {};

TEST_P(MoeBlockTest, EveryLayoutGivesTheSameBits) {
  const auto [scheme, tokens] = GetParam();
  const StepTensors expected =
      RunMoe({.scheme = scheme, .group_tokens = {tokens}}, ParallelLayout(), {});
  for (int world : {2, 4}) {
    for (int tp = 1; tp <= world; tp *= 2) {
      for (int ep = 1; ep <= world; ep *= 2) {
        const ParallelLayout layout = *ParallelLayout::Make(world, tp, ep, kExperts);
        Problem problem = {.scheme = scheme, .group_tokens = {}};
        // Uneven dp groups: the first one gets what the others do not; some get nothing.
        problem.group_tokens.assign(layout.dp, tokens / (layout.dp + 1));
        problem.group_tokens[0] = tokens - (layout.dp - 1) * (tokens / (layout.dp + 1));
        for (TokenPlacement placement : {TokenPlacement::kReplicated, TokenPlacement::kSharded}) {
          ExpectSame(RunMoe(problem, layout, placement), expected,
                     layout.ToString() + (placement == TokenPlacement::kSharded ? " sharded" : ""));
        }
        ExpectSame(RunMoe(problem, layout, TokenPlacement::kSharded, 0), expected,
                   layout.ToString() + " sharded, in halves");
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Schemes, MoeBlockTest,
                         testing::Combine(testing::Values(Scheme::kNone, Scheme::kFloat,
                                                          Scheme::kInteger),
                                          testing::Values(0, 1, 2, 9, 33)));

TEST(DenseMlpTest, EveryTensorParallelSizeGivesTheSameBits) {
  constexpr int64_t kTokens = 7;
  std::optional<StepTensors> expected;
  for (int world : {1, 2, 4}) {
    for (TokenPlacement placement : {TokenPlacement::kReplicated, TokenPlacement::kSharded}) {
      StepTensors step = MakeStep(kTokens);
      RunRanks(world, [&](std::unique_ptr<Communicator> tp) {
        const std::unique_ptr<Backend> backend = MakeReferenceBackend();
        DenseMlp mlp(
            MakeExpert(*backend, Scheme::kInteger, 0, Part(kIntermediate, tp->size(), tp->rank()),
                       Part(kHidden, tp->size(), tp->rank())),
            *tp);
        const TokenRows rows = TensorGroup(*tp).Place({kTokens}, 0, placement);
        const bool keep = placement == TokenPlacement::kSharded || tp->rank() == 0;
        RunBlock(mlp, *backend, *tp, rows, rows.mine.begin, keep, step);
      });
      if (!expected.has_value())
        expected = std::move(step);
      else
        ExpectSame(step, *expected, std::to_string(world) + " ranks");
    }
  }
}

}  // namespace
}  // namespace intermix
