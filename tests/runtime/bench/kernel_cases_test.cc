// Every case of `bench kernels` runs on the reference backend, at the size of a toy.
#include "runtime/bench/kernel_cases.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quant/integer_scale.h"
#include "kernels/reference/reference_backend.h"
#include "runtime/bench/kernel_bench.h"
#include "runtime/bench/random_weight.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;

KernelCaseOptions Toy() {
  return {.config = {.vocab_size = 96,
                     .hidden_size = 128,
                     .intermediate_size = 256,
                     .num_attention_heads = 4,
                     .num_key_value_heads = 2,
                     .head_dim = 32,
                     .num_local_experts = 4,
                     .num_experts_per_tok = 2},
          .tokens = {1, 5},
          .contexts = {1, 40}};
}

TEST(ExpertLoadTest, RowsAreSpreadEvenly) {
  EXPECT_THAT(EvenLoad(8, 4), ElementsAre(0, 2, 4, 6, 8));
  EXPECT_THAT(EvenLoad(2, 4), ElementsAre(0, 0, 1, 1, 2));
}

TEST(ExpertLoadTest, ASkewedLoadHalves) {
  EXPECT_THAT(SkewedLoad(16, 4), ElementsAre(0, 8, 12, 14, 16));
  EXPECT_THAT(SkewedLoad(1, 3), ElementsAre(0, 1, 1, 1));
}

TEST(KernelCasesTest, EveryOpRuns) {
  const std::unique_ptr<Backend> backend = MakeReferenceBackend();
  double now = 0.0;
  TurnTimer timer({}, nullptr, {.turns = 1, .min_seconds = 0.0, .clock = [&] { return now += 1; }});
  const std::vector<Table> tables = BenchKernels(KernelCases(Toy()), "", *backend, timer, nullptr);
  std::set<std::string> ops;
  for (const std::vector<Cell>& row : tables.at(0).rows) {
    ops.insert(std::get<std::string>(row[0]));
    EXPECT_GT(std::get<double>(row[3]), 0.0) << std::get<std::string>(row[1]);
  }
  EXPECT_THAT(ops, ElementsAre("add and norm", "attention", "combine and norm", "experts", "linear",
                               "norm", "quantise", "rope", "route", "sample", "sort and gather"));
}

TEST(KernelCasesTest, AFilterChoosesByOpAndShape) {
  const std::unique_ptr<Backend> backend = MakeReferenceBackend();
  double now = 0.0;
  TurnTimer timer({}, nullptr, {.turns = 1, .min_seconds = 0.0, .clock = [&] { return now += 1; }});
  size_t announced = 0;
  const std::vector<Table> tables =
      BenchKernels(KernelCases(Toy()), "linear qkv", *backend, timer,
                   [&](size_t, size_t total, const std::string&) { announced = total; });
  EXPECT_EQ(tables.at(0).rows.size(), 2u);  // one for each number of tokens
  EXPECT_EQ(announced, 2u);
}

TEST(KernelCasesTest, WorkOfAnExpertCaseCountsItsRows) {
  const std::unique_ptr<Backend> backend = MakeReferenceBackend();
  const std::vector<KernelCase> cases = ExpertCases(Toy());
  const PreparedKernel kernel = cases.at(0).prepare(*backend);  // gate_up, one token, even
  EXPECT_EQ(kernel.work.int8_ops, 2.0 * 2 * (2 * 256) * 128);
}

TEST(RandomWeightTest, EveryFormatMeetsTheCertificate) {
  for (const ScaleWidth width : {ScaleWidth::kFolded, ScaleWidth::kWide}) {
    for (const int bits : {4, 8}) {
      if (bits == 8 && width == ScaleWidth::kFolded) continue;
      const WeightFormat format{.scale_width = width, .bits = bits, .group_size = 32};
      const QuantizedWeight weight = MakeRandomWeight(format, 24, 14336, 7);
      EXPECT_TRUE(VerifyCertificate(weight, "w").ok()) << format.ToString();
    }
  }
}

TEST(RandomWeightTest, ValuesHaveAboutUnitGain) {
  for (const WeightFormat& format :
       {WeightFormat{.group_size = 64},
        WeightFormat{.scale_width = ScaleWidth::kWide, .bits = 8, .group_size = 64},
        WeightFormat{.scheme = Scheme::kFloat, .group_size = 64},
        WeightFormat{.scheme = Scheme::kNone}}) {
    const OwnedTensor values = Dequantize(MakeRandomWeight(format, 64, 256, 3));
    double squares = 0.0;
    for (int64_t i = 0; i < 64 * 256; ++i) {
      const double x = values.view.data<float>()[i];
      squares += x * x;
    }
    EXPECT_GT(squares / 64, 0.3) << format.ToString();
    EXPECT_LT(squares / 64, 3.0) << format.ToString();
  }
}

}  // namespace
}  // namespace intermix
