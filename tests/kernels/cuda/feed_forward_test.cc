// The kernels of feed_forward.cu and routing.cu equal ReferenceBackend bit for bit, in every thread
// order: ragged widths, ties and NaN in the router, experts without tokens, thousands of slots.
#include "kernels/cuda/feed_forward.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <vector>

#include "kernels/core/lane_math.h"
#include "kernels/cuda/routing.h"
#include "kernels/cuda/rows.h"
#include "tests/kernels/cuda/cuda_ops_test.h"

namespace intermix {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const std::vector<int64_t> kWidths = {1, 17, 64, 100, 272};
const std::vector<int64_t> kTokens = {0, 1, 17};

void SiluMulOnHost(const Tensor& gate_up, const Tensor& out, bool in_turns = false) {
  for (int64_t m = 0; m < out.rows(); ++m) {
    for (int64_t i = 0; i < out.cols(); ++i) {
      const float* row = gate_up.row<float>(m);
      const float gate = row[in_turns ? 2 * i : i];
      const float up = row[in_turns ? 2 * i + 1 : out.cols() + i];
      out.row<BFloat16>(m)[i] = BFloat16(LaneSilu(gate) * up);
    }
  }
}

class CudaFeedForwardTest : public CudaOpsTest {
 protected:
  void ExpectSameRoute(const Tensor& x, const Tensor& gate, int64_t top_k) {
    const OwnedTensor experts = OwnedTensor::Host(DType::kI32, {x.rows(), top_k});
    const OwnedTensor weights = OwnedTensor::Host(DType::kF32, {x.rows(), top_k});
    const DeviceTensor d_x(x), d_gate(gate);
    reference().Route(x, gate, experts.view, weights.view);
    // The gate passes by; it may stay, where tokens are few; the ring may be long, where many.
    for (const int32_t shared_bytes : {0, cuda::kLeastSharedBytes, 227 * 1024}) {
      if (shared_bytes == 0 && x.rows() > 128) continue;
      if (shared_bytes > cuda::kLeastSharedBytes && x.rows() <= 2048) continue;
      const DeviceTensor d_experts(RandomInts({x.rows(), top_k}, -9, -5, 1));
      const DeviceTensor d_weights(OwnedTensor::Host(DType::kF32, {x.rows(), top_k}));
      cuda::Route({.x = d_x.view,
                   .gate = d_gate.view,
                   .experts = d_experts.view,
                   .weights = d_weights.view,
                   .shared_bytes = shared_bytes},
                  nullptr);
      ExpectSame(d_experts, experts);
      ExpectSame(d_weights, weights);
    }
  }

  // The order alone, then with counts and the tokens' rows, of some width.
  void ExpectSameSort(const Tensor& experts, int32_t first_expert, int64_t num_experts,
                      int64_t width = 48) {
    const int64_t slots = experts.num_elements();
    const int64_t tokens = experts.rows();
    const OwnedTensor values = RandomInts({tokens, (width + 16) / 4}, -9999, 9999, 4);
    const OwnedTensor scales = RandomTensor(DType::kF32, {tokens}, 5);
    struct Written {
      OwnedTensor token_of_row, row_of_slot, row_offsets, totals, rows, row_scales;
    };
    const Written host = {.token_of_row = RandomInts({slots}, -9, -5, 1),
                          .row_of_slot = RandomInts({slots}, -9, -5, 2),
                          .row_offsets = RandomInts({num_experts + 1}, -9, -5, 3),
                          .totals = RandomInts({num_experts}, 0, 99, 6),
                          .rows = OwnedTensor::Host(DType::kI8, {slots, width}),
                          .row_scales = OwnedTensor::Host(DType::kF32, {slots})};
    const DeviceTensor d_experts(experts), d_values(values), d_scales(scales),
        d_token_of_row(host.token_of_row), d_row_of_slot(host.row_of_slot),
        d_row_offsets(host.row_offsets), d_totals(host.totals), d_rows(host.rows),
        d_row_scales(host.row_scales);
    const auto input = [&](const Tensor& ints, const Tensor& factors) {
      const Tensor bytes(ints.raw(), DType::kI8, {tokens, ints.cols() * 4}, ints.device());
      return Activations{.values = bytes.Cols(0, width), .scales = factors};
    };
    ExpertOrder order = {.token_of_row = host.token_of_row.view,
                         .row_of_slot = host.row_of_slot.view,
                         .row_offsets = host.row_offsets.view};
    ExpertOrder d_order = {.token_of_row = d_token_of_row.view,
                           .row_of_slot = d_row_of_slot.view,
                           .row_offsets = d_row_offsets.view};
    for (const bool whole : {false, true}) {
      Activations from;
      Activations d_from;
      if (whole) {
        from = input(values.view, scales.view);
        d_from = input(d_values.view, d_scales.view);
        order.totals = host.totals.view;
        order.rows = {.values = host.rows.view, .scales = host.row_scales.view};
        d_order.totals = d_totals.view;
        d_order.rows = {.values = d_rows.view, .scales = d_row_scales.view};
      }
      reference().SortByExpert(experts, first_expert, from, order);
      cuda::SortByExpert({.experts = d_experts.view,
                          .first_expert = first_expert,
                          .tokens = d_from,
                          .order = d_order},
                         nullptr);
      ExpectSame(d_token_of_row, host.token_of_row);
      ExpectSame(d_row_of_slot, host.row_of_slot);
      ExpectSame(d_row_offsets, host.row_offsets);
      ExpectSame(d_totals, host.totals);
      ExpectSame(d_rows, host.rows);
      ExpectSame(d_row_scales, host.row_scales);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(, CudaFeedForwardTest, ::testing::ValuesIn(cuda::AllKernelRuns()),
                         RunName);

TEST_P(CudaFeedForwardTest, SiluMul) {
  for (const int64_t width : kWidths) {
    for (const int64_t tokens : kTokens) {
      SCOPED_TRACE(width);
      const OwnedTensor gate_up = HostileRows(DType::kF32, tokens, 2 * width, 1);
      const OwnedTensor out = OwnedTensor::Host(DType::kBF16, {tokens, width + 8});
      const DeviceTensor d_gate_up(gate_up), d_out(out);
      for (const int64_t offset : {0, 8, 1}) {
        for (const bool in_turns : {false, true}) {
          SiluMulOnHost(gate_up.view, out.view.Cols(offset, offset + width), in_turns);
          cuda::SiluMul({.gate_up = d_gate_up.view,
                         .out = d_out.view.Cols(offset, offset + width),
                         .in_turns = in_turns},
                        nullptr);
          ExpectSame(d_out, out);
        }
      }
    }
  }
}

// The exponential over its whole range, its cut-offs and their neighbours.
TEST_P(CudaFeedForwardTest, ExponentialInSilu) {
  std::vector<float> values = {0.0f, -0.0f, kInf, -kInf, std::nanf(""), 1e30f, -1e30f};
  for (const float edge : {87.3f, 88.7f, -87.3f, -88.7f}) {
    values.push_back(edge);
    values.push_back(std::nextafter(edge, kInf));
    values.push_back(std::nextafter(edge, -kInf));
  }
  for (float x = -90.0f; x < 90.0f; x += 0.0517f) values.push_back(x);
  const auto count = static_cast<int64_t>(values.size());
  const OwnedTensor gate_up = OwnedTensor::Host(DType::kF32, {1, 2 * count});
  for (int64_t i = 0; i < count; ++i) {
    PutValue(gate_up.view, 0, i, values[static_cast<size_t>(i)]);
    // An `up` that stretches the low bits of silu over bfloat16's few.
    PutValue(gate_up.view, 0, count + i, 1.0f + static_cast<float>(i % 97) * 0x1p-9f);
  }
  const OwnedTensor out = OwnedTensor::Host(DType::kBF16, {1, count});
  const DeviceTensor d_gate_up(gate_up), d_out(out);
  SiluMulOnHost(gate_up.view, out.view);
  cuda::SiluMul({.gate_up = d_gate_up.view, .out = d_out.view}, nullptr);
  ExpectSame(d_out, out);
}

TEST_P(CudaFeedForwardTest, RouteWithTiesAndNan) {
  for (const int64_t hidden : {5, 100, 128}) {
    for (const int64_t num_experts : {1, 8, 32, 37, 70}) {
      for (const int64_t top_k : {1, 2, 6, 8, 32}) {
        if (top_k > num_experts) continue;
        SCOPED_TRACE(std::to_string(num_experts) + " experts, top " + std::to_string(top_k));
        const OwnedTensor x = HostileRows(DType::kF32, 12, hidden, 6);
        const OwnedTensor gate = RandomTensor(DType::kF32, {num_experts, hidden}, 7);
        for (int64_t e = 3; e + 2 < num_experts; e += 3) {  // equal experts: ties
          for (int64_t k = 0; k < hidden; ++k) {
            gate.view.row<float>(e + 2)[k] = gate.view.row<float>(e)[k];
          }
        }
        ExpectSameRoute(x.view, gate.view, top_k);
      }
    }
  }
}

// Blocks of 4, 16 and 32 tokens, the last of them not whole; one expert and so many that the gate
// takes turns, or that blocks have fewer tokens; rows that are not aligned.
TEST_P(CudaFeedForwardTest, RouteOfTokensThatShareABlock) {
  for (const auto& [tokens, num_experts, hidden] : {std::tuple{129, 8, 20},
                                                    {130, 256, 20},
                                                    {131, 1, 19},
                                                    {515, 11, 19},
                                                    {517, 256, 20},
                                                    {520, 1, 20},
                                                    {2053, 8, 20},
                                                    {2050, 67, 20},
                                                    {2051, 3, 19}}) {
    SCOPED_TRACE(std::to_string(tokens) + " tokens, experts " + std::to_string(num_experts));
    const OwnedTensor x = HostileRows(DType::kF32, tokens, hidden, 8);
    const OwnedTensor gate = RandomTensor(DType::kF32, {num_experts, hidden}, 9);
    ExpectSameRoute(x.view, gate.view, std::min(num_experts, 2));
  }
}

// Rows that are longer than what a block holds of them at once.
TEST_P(CudaFeedForwardTest, RouteOfLongRows) {
  for (const auto& [tokens, hidden] : {std::pair{1, 2564},
                                       {2, 2561},
                                       {3, 1028},
                                       {131, 1796},
                                       {513, 644},
                                       {2052, 521},
                                       {3, 12100}}) {
    SCOPED_TRACE(std::to_string(tokens) + " tokens of " + std::to_string(hidden));
    const OwnedTensor x = RandomTensor(DType::kF32, {tokens, hidden}, 10);
    const OwnedTensor gate = RandomTensor(DType::kF32, {tokens == 1 ? 19 : 8, hidden}, 11);
    ExpectSameRoute(x.view, gate.view, 2);
  }
}

// What it does before the kernels ahead have ended touches neither the rows, which one of them
// writes, nor what another has chosen.
TEST_P(CudaFeedForwardTest, RouteBehindKernelsThatStillRun) {
  for (const int64_t num_experts : {8, 12}) {
    SCOPED_TRACE(std::to_string(num_experts) + " experts");
    const OwnedTensor x = RandomTensor(DType::kF32, {3, 100}, 12);
    const OwnedTensor gate = RandomTensor(DType::kF32, {num_experts, 100}, 13);
    const OwnedTensor experts = OwnedTensor::Host(DType::kI32, {3, 2});
    const OwnedTensor weights = OwnedTensor::Host(DType::kF32, {3, 2});
    reference().Route(x.view, gate.view, experts.view, weights.view);
    const OwnedTensor index = OwnedTensor::Host(DType::kI32, {3});
    for (int32_t i = 0; i < 3; ++i) index.view.data<int32_t>()[i] = i;
    const DeviceTensor d_src(x), d_gate(gate), d_index(index);
    const DeviceTensor d_x(OwnedTensor::Host(DType::kF32, {3, 100}));
    const DeviceTensor d_experts(RandomInts({3, 2}, -9, -5, 1));
    const DeviceTensor d_weights(OwnedTensor::Host(DType::kF32, {3, 2}));
    cuda::GatherRows({.src = d_src.view, .index = d_index.view, .dst = d_x.view}, nullptr);
    for (int i = 0; i < 2; ++i) {
      cuda::Route({.x = d_x.view,
                   .gate = d_gate.view,
                   .experts = d_experts.view,
                   .weights = d_weights.view},
                  nullptr);
    }
    ExpectSame(d_experts, experts);
    ExpectSame(d_weights, weights);
  }
}

TEST_P(CudaFeedForwardTest, SortByExpertOfSomeOfTheExperts) {
  for (const int64_t tokens : {0, 1, 15, 16, 70}) {
    for (const int64_t num_experts : {1, 8, 33}) {
      SCOPED_TRACE(std::to_string(tokens) + " tokens, " + std::to_string(num_experts));
      const OwnedTensor experts = RandomInts({tokens, 2}, 0, 39, 10);
      ExpectSameSort(experts.view, 0, num_experts);
      ExpectSameSort(experts.view, 7, num_experts);
    }
  }
}

TEST_P(CudaFeedForwardTest, SortByExpertMovesRowsOfAnyAlignment) {
  for (const int64_t tokens : {9, 40}) {  // slots of one warp, and more
    const OwnedTensor experts = RandomInts({tokens, 2}, 0, 7, 14);
    for (const int64_t width : {1, 45, 52, 48, 2064, 6160}) {
      ExpectSameSort(experts.view, 0, 8, width);
    }
  }
}

// Blocks of several tokens: a warp for each, several warps for each of which some are left over,
// several tokens for each; rows of one chunk and more, and last blocks that are not whole.
TEST_P(CudaFeedForwardTest, SortByExpertMovesRowsOfSeveralTokens) {
  for (const auto& [tokens, top_k, width] :
       {std::tuple{150, 2, 2064}, {131, 3, 45}, {513, 1, 301}, {259, 8, 1040}, {600, 4, 20}}) {
    SCOPED_TRACE(std::to_string(tokens) + " tokens, top " + std::to_string(top_k));
    ExpectSameSort(RandomInts({tokens, top_k}, 0, 9, 15).view, 1, 8, width);
  }
  ExpectSameSort(RandomInts({130, 2}, 0, 7, 16).view, 0, 8, 4112);
}

TEST_P(CudaFeedForwardTest, SortByExpertOfThousandsOfSlots) {
  const OwnedTensor experts = RandomInts({701, 3}, 0, 200, 11);
  ExpectSameSort(experts.view, 3, 130);
  const OwnedTensor same = RandomInts({1100, 1}, 5, 5, 12);  // one expert has them all
  ExpectSameSort(same.view, 4, 8);
}

TEST_P(CudaFeedForwardTest, AddRowCountsWraps) {
  const OwnedTensor offsets = OwnedTensor::Host(DType::kI32, {201});
  const OwnedTensor totals = RandomInts({200}, 0, 100, 13);
  for (int64_t e = 0; e < 200; ++e) {
    offsets.view.data<int32_t>()[e + 1] = offsets.view.data<int32_t>()[e] + static_cast<int>(e % 7);
  }
  totals.view.data<int32_t>()[6] = std::numeric_limits<int32_t>::max();
  const DeviceTensor d_offsets(offsets), d_totals(totals);
  reference().AddRowCounts(offsets.view, totals.view);
  cuda::AddRowCounts({.row_offsets = d_offsets.view, .totals = d_totals.view}, nullptr);
  ExpectSame(d_totals, totals);
}

}  // namespace
}  // namespace intermix
