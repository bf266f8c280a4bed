// The GEMM kernels, executed instruction by instruction on the CPU, give ReferenceBackend's bits:
// accumulators, float32 and bfloat16 outputs, for every mode, tile, share of K, routing and order.
#include "kernels/cuda/gemm.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/core/lane_math.h"
#include "kernels/cuda/gemm_pack.h"
#include "kernels/reference/reference_backend.h"
#include "tests/kernels/cuda/device_memory.h"
#include "tests/kernels/cuda/kernel_run.h"
#include "tests/testing/compare.h"
#include "tests/testing/gemm_cases.h"
#include "tests/testing/random.h"

namespace intermix::cuda {
namespace {

constexpr GemmDevice kDevice = {.sm_count = 3};
constexpr int kNumTiles = static_cast<int>(kGemmTiles.size());

WeightFormat FormatOf(GemmMode mode, int64_t group_size) {
  WeightFormat format{.scale_width = ScaleWidth::kWide, .group_size = group_size};
  format.bits = CodeBits(mode);
  if (SumsInFloat(mode)) format.scheme = Scheme::kFloat;
  if (mode == GemmMode::kFolded4) format.scale_width = ScaleWidth::kFolded;
  return format;
}

GemmOutput OutputOf(DType dtype) {
  return dtype == DType::kF32    ? GemmOutput::kF32
         : dtype == DType::kBF16 ? GemmOutput::kBF16
                                 : GemmOutput::kI32;
}

// One launch, or one per mode among the experts' weights. What a test leaves out is chosen.
struct GemmRun {
  std::vector<QuantizedWeight> experts;
  Activations x;
  std::vector<int32_t> offsets;  // of the experts' rows; empty: one expert, no offsets
  bool old_offsets = false;      // GemmArgs::offsets_are_old
  DType output = DType::kF32;
  bool gated = false;   // even features are gates, odd ones ups; the output is bfloat16
  int tile = -1;        // of kGemmTiles
  int blocks = -1;      // the grid
  int times = 1;        // how often, on one workspace
  int64_t y_first = 0;  // columns of y to the left and
  int64_t y_more = 3;   // right of those that the GEMM may write

  std::string ToString() const {
    return experts[0].format.ToString() + ", N " + std::to_string(experts[0].n) + ", K " +
           std::to_string(experts[0].k) + ", " + std::to_string(x.tokens()) + " rows to " +
           (gated ? "silu * up" : std::string(Name(output))) + ", tile " + std::to_string(tile) +
           ", blocks " + std::to_string(blocks);
  }
};

class GemmTest : public ::testing::Test {
 protected:
  // y of the kernels against y of the reference, both filled with the same bytes before. Every call
  // takes the next order of threads and blocks.
  void ExpectReference(const GemmRun& run) {
    const KernelRun& order = orders_[next_order_++ % orders_.size()];
    const ScopedKernelRun in_order(order);
    SCOPED_TRACE(run.ToString() + ", " + order.name);
    const int64_t cols = run.gated ? run.experts[0].n / 2 : run.experts[0].n;
    const int64_t width = run.y_first + cols + run.y_more;
    const DType dtype = run.gated ? DType::kBF16 : run.output;
    const OwnedTensor expected = OwnedTensor::Host(dtype, {run.x.tokens(), width});
    const OwnedTensor actual = OwnedTensor::Host(dtype, {run.x.tokens(), width});
    for (const Tensor& y : {expected.view, actual.view}) {
      std::memset(y.raw(), 0x5A, static_cast<size_t>(y.bytes()));
    }
    const Tensor written = expected.view.Cols(run.y_first, run.y_first + cols);
    if (run.gated) {
      RunGatedReference(run, written);
    } else {
      RunReference(run, written);
    }
    RunKernels(run, actual.view);
    EXPECT_TRUE(BitwiseEqual(actual.view, expected.view));
  }

 private:
  static void RunGatedReference(const GemmRun& run, const Tensor& hidden) {
    const OwnedTensor y = OwnedTensor::Host(DType::kF32, {run.x.tokens(), run.experts[0].n});
    RunReference(run, y.view);
    const int64_t rows = run.offsets.empty() ? run.x.tokens() : run.offsets.back();
    for (int64_t m = 0; m < rows; ++m) {
      const float* row = y.view.row<float>(m);
      for (int64_t i = 0; i < hidden.cols(); ++i) {
        hidden.row<BFloat16>(m)[i] = BFloat16(LaneSilu(row[2 * i]) * row[2 * i + 1]);
      }
    }
  }

  static void RunReference(const GemmRun& run, const Tensor& y) {
    ReferenceBackend reference;
    std::vector<std::unique_ptr<PackedWeight>> owned;
    std::vector<const PackedWeight*> weights;
    for (const QuantizedWeight& weight : run.experts) {
      owned.push_back(*reference.Prepack({&weight, 1}));
      weights.push_back(owned.back().get());
    }
    std::vector<int32_t> offsets = run.offsets;
    if (offsets.empty()) offsets = {0, static_cast<int32_t>(run.x.tokens())};
    const Tensor row_offsets(offsets.data(), DType::kI32, {static_cast<int64_t>(offsets.size())});
    reference.GroupedGemm(run.x, weights, row_offsets, y);
  }

  static void RunKernels(const GemmRun& run, const Tensor& y) {
    std::vector<DeviceMemory> weights;
    std::vector<GemmExpert> experts;
    std::set<GemmMode> modes;
    for (const QuantizedWeight& weight : run.experts) {
      const absl::StatusOr<GemmPack> pack = PackGemmWeight(weight);
      ASSERT_TRUE(pack.ok()) << pack.status();
      weights.push_back(DeviceMemory::Copy(pack->bytes.data(), pack->bytes.bytes()));
      experts.push_back(pack->At(weights.back().data()));
      modes.insert(experts.back().mode);
    }
    // The rows with all that lies between them, so that strides and alignment are kept.
    const Tensor& values = run.x.values;
    const size_t misaligned = reinterpret_cast<uintptr_t>(values.raw()) % 16;
    const size_t x_bytes =
        values.rows() == 0
            ? 0
            : static_cast<size_t>((values.rows() - 1) * values.stride(0) + values.cols());
    const DeviceMemory x = DeviceMemory::Copy(static_cast<const char*>(values.raw()) - misaligned,
                                              x_bytes + misaligned);
    const DeviceMemory scales = DeviceMemory::Copy(run.x.scales);
    const DeviceMemory table = DeviceMemory::Copy(experts);
    const DeviceMemory offsets = DeviceMemory::Copy(run.offsets);
    const DeviceMemory out = DeviceMemory::Copy(y);
    const DeviceMemory workspace = DeviceMemory::Zeros(WorkspaceBytes(run));
    GemmArgs args{.x = x.at<int8_t>(misaligned),
                  .x_stride = values.stride(0),
                  .x_scales = scales.at<float>(),
                  .experts = table.at<GemmExpert>(),
                  .only = experts[0],
                  .row_offsets = run.offsets.empty() ? nullptr : offsets.at<int32_t>(),
                  .offsets_are_old = run.old_offsets,
                  .num_experts = static_cast<int32_t>(experts.size()),
                  .rows = static_cast<int32_t>(values.rows()),
                  .n = static_cast<int32_t>(run.experts[0].n),
                  .k = static_cast<int32_t>(run.experts[0].k),
                  .y = out.at<char>(static_cast<size_t>(run.y_first) * ByteSize(y.dtype())),
                  .y_stride = y.stride(0),
                  .output = run.gated ? GemmOutput::kSiluMul : OutputOf(run.output),
                  .workspace = workspace.at<int32_t>()};
    for (int i = 0; i < run.times; ++i) {
      for (const GemmMode mode : modes) LaunchGemm(args, mode, PlanOf(run, args, mode), nullptr);
    }
    out.CopyBack(y);
    EXPECT_TRUE(workspace.AllZero()) << "the workspace is not left as it was found";
  }

  // What the plan needs, or what any plan may need; a slot too few would be out of bounds.
  static size_t WorkspaceBytes(const GemmRun& run) {
    if (run.tile < 0 || run.blocks < 0) return GemmWorkspaceBytes(kDevice);
    const GemmTile& tile = kGemmTiles[run.tile];
    return sizeof(int32_t) *
           static_cast<size_t>(kGemmMaxBlocks + run.blocks * tile.features() * tile.tokens());
  }

  static GemmPlan PlanOf(const GemmRun& run, const GemmArgs& args, GemmMode mode) {
    const GemmProblem problem{
        .mode = mode, .n = args.n, .k = args.k, .experts = args.num_experts, .rows = args.rows};
    if (run.tile < 0) return SelectGemm(problem, kDevice);
    int tile = run.tile;
    if (!kGemmTiles[tile].Runs(mode)) tile = 5;
    GemmPlan plan = PlanGemm(problem, tile, kDevice);
    if (run.blocks > 0) {
      plan.blocks = run.blocks;
      plan.min_units = 1;
    }
    return plan;
  }

  const std::vector<KernelRun> orders_ = AllKernelRuns();
  size_t next_order_ = 0;
};

GemmRun RandomRun(GemmMode mode, int64_t n, int64_t k, int64_t group_size, const Activations& x) {
  const WeightFormat format = FormatOf(mode, group_size);
  return {.experts = {RandomWeight(format, n, k, 1)}, .x = x};
}

struct Depth {
  int64_t k;
  int64_t group_size;
};

class GemmTileTest : public GemmTest, public ::testing::WithParamInterface<int> {
 protected:
  const GemmTile& tile() const { return kGemmTiles[GetParam()]; }
};

// Whole tiles and ragged ones, in N, in tokens and in K; groups within a step's stage, across
// stages, and one for all of K.
TEST_P(GemmTileTest, EveryModeGroupAndOutput) {
  const int64_t tokens = tile().tokens() + 3;
  const int64_t n = tile().features() + 18 + 1;
  for (int m = 0; m < kNumGemmModes; ++m) {
    const GemmMode mode = static_cast<GemmMode>(m);
    if (!tile().Runs(mode)) continue;
    for (const Depth depth : {Depth{160, 32}, Depth{448, 64}, Depth{384, 128}, Depth{768, 256},
                              Depth{48, 48}, Depth{272, 272}}) {
      const OwnedActivations x = RandomActivations(Scheme::kInteger, tokens, depth.k, 2);
      for (const DType output : GemmOutputs(FormatOf(mode, depth.group_size))) {
        if (output != DType::kF32 && depth.k != 160) continue;
        GemmRun run = RandomRun(mode, n, depth.k, depth.group_size, x.view());
        run.output = output;
        run.tile = GetParam();
        ExpectReference(run);
        if (HasFailure()) return;
      }
    }
  }
}

// Whole pairs of hidden features, one beyond the last, rows at odd addresses.
TEST_P(GemmTileTest, GatedInEveryMode) {
  if (tile().family == GemmFamily::kWgmma) GTEST_SKIP() << "has no gated epilogue";
  for (int m = 0; m < kNumGemmModes; ++m) {
    const GemmMode mode = static_cast<GemmMode>(m);
    if (!tile().Runs(mode)) continue;
    const OwnedActivations x = RandomActivations(Scheme::kInteger, tile().tokens() + 3, 160, 2);
    for (const int64_t n : {2, 30, tile().features() + 22}) {
      for (const int64_t y_first : {0, 1}) {
        if (n != 30 && y_first == 1) continue;
        GemmRun run = RandomRun(mode, n, 160, 32, x.view());
        run.gated = true;
        run.y_first = y_first;
        run.y_more = 2 + n / 2 % 2;
        run.tile = GetParam();
        run.blocks = y_first == 0 ? 3 : -1;
        ExpectReference(run);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(GemmTileTest, ExtremeCodesScalesAndNanRows) {
  for (int m = 0; m < kNumGemmModes; ++m) {
    const GemmMode mode = static_cast<GemmMode>(m);
    if (!tile().Runs(mode)) continue;
    for (const Depth depth : {Depth{1024, 128}, Depth{256, 256}}) {
      const OwnedActivations x =
          RandomActivations(Scheme::kInteger, 9, depth.k, 4, Content::kExtreme);
      const WeightFormat format = FormatOf(mode, depth.group_size);
      for (const DType output : GemmOutputs(format)) {
        ExpectReference({.experts = {RandomWeight(format, 40, depth.k, 3, Content::kExtreme)},
                         .x = x.view(),
                         .output = output,
                         .tile = GetParam()});
        if (HasFailure()) return;
      }
    }
  }
}

// 10 stages in each of 2 tiles: shares that end inside tiles, blocks of several tiles, idle blocks.
TEST_P(GemmTileTest, AnyNumberOfBlocksTwiceOnOneWorkspace) {
  for (const GemmMode mode : {GemmMode::kFolded4, GemmMode::kWide4, GemmMode::kPlain8,
                              GemmMode::kWide8, GemmMode::kFloat4}) {
    if (!tile().Runs(mode)) continue;
    const OwnedActivations x = RandomActivations(Scheme::kInteger, tile().tokens() + 1, 1280, 5);
    for (const int blocks : {1, 2, 5, 13, 40}) {
      GemmRun run = RandomRun(mode, 24, 1280, mode == GemmMode::kPlain8 ? 1280 : 256, x.view());
      run.tile = GetParam();
      run.blocks = blocks;
      run.times = 2;
      ExpectReference(run);
      if (HasFailure()) return;
    }
  }
}

TEST_P(GemmTileTest, ExpertsWithoutRowsAndExpertsOfOtherFormats) {
  if (!tile().sums_only) GTEST_SKIP() << "runs none of these formats";
  for (const std::vector<int32_t>& offsets : ExpertRowOffsets()) {
    const OwnedActivations x = RandomActivations(Scheme::kInteger, offsets.back() + 2, 192, 7);
    GemmRun run{.x = x.view(), .offsets = offsets, .output = DType::kBF16, .tile = GetParam()};
    for (uint64_t e = 0; e + 1 < offsets.size(); ++e) {
      const WeightFormat format = e % 3 == 0 ? FormatOf(GemmMode::kFolded4, 64)
                                  : e % 3 == 1
                                      ? FormatOf(GemmMode::kFolded4, 32)
                                      : FormatOf(GemmMode::kWide8, 192);  // which is kPlain8
      run.experts.push_back(RandomWeight(format, 150, 192, 100 + e));
    }
    for (const bool old_offsets : {false, true}) {
      run.old_offsets = old_offsets;  // read by the decode family before it waits
      ExpectReference(run);
      if (HasFailure()) return;
    }
  }
}

std::string TileName(const ::testing::TestParamInfo<int>& tile) {
  const GemmTile& t = kGemmTiles[tile.param];
  return std::string(t.family == GemmFamily::kWgmma ? "wgmma" : "") + "n" +
         std::to_string(t.features()) + "m" + std::to_string(t.tokens()) +
         (t.family == GemmFamily::kDecode
              ? "k" + std::to_string(t.warps_k) + "b" + std::to_string(t.blocks_per_sm)
              : "");
}
INSTANTIATE_TEST_SUITE_P(, GemmTileTest, ::testing::Range(0, kNumTiles), TileName);

// The shared list, with the plan that the backend would take. Formats come by fives and numbers of
// rows by fours, so each format meets each.
TEST_F(GemmTest, SharedShapesByTheSelectedPlan) {
  size_t turn = 0;
  for (const GemmCase& test : GemmCases()) {
    if (test.format.scheme == Scheme::kNone) continue;
    const QuantizedWeight weight = test.Weight(1, Content::kRandom);
    const bool all = test.n == 48 && test.k < 200;
    for (size_t i = 0; i < GemmTokens().size(); ++i) {
      if (!all && i != turn % (GemmTokens().size() - 1)) continue;
      const OwnedActivations x = RandomActivations(Scheme::kInteger, GemmTokens()[i], test.k, 2);
      ExpectReference({.experts = {weight}, .x = x.view()});
      if (HasFailure()) return;
    }
    ++turn;
  }
}

TEST_F(GemmTest, RowsAndOutputsAtAnyAddress) {
  constexpr int64_t kK = 160;
  const OwnedActivations wide = RandomActivations(Scheme::kInteger, 19, kK + 32, 10);
  for (const int64_t first : {0, 1, 8, 16}) {
    Activations x = wide.view();
    x.values = x.values.Cols(first, first + kK);
    for (const int64_t y_first : {0, 3, 4}) {
      for (const DType output : {DType::kF32, DType::kBF16, DType::kI32}) {
        GemmRun run = RandomRun(GemmMode::kFolded4, 21, kK, 32, x);
        run.output = output;
        run.y_first = y_first;
        run.y_more = 7;
        ExpectReference(run);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(GemmTest, ExpertsByTheSelectedPlan) {
  for (const std::vector<int32_t>& offsets : ExpertRowOffsets()) {
    for (const GemmMode mode : {GemmMode::kWide4, GemmMode::kFloat8}) {
      const OwnedActivations x = RandomActivations(Scheme::kInteger, offsets.back(), 96, 7);
      GemmRun run{.x = x.view(), .offsets = offsets};
      for (uint64_t e = 0; e + 1 < offsets.size(); ++e) {
        run.experts.push_back(RandomWeight(FormatOf(mode, 32), 40, 96, 100 + e));
      }
      ExpectReference(run);
      if (HasFailure()) return;
    }
  }
}

// More experts than one warp counts at once.
TEST_F(GemmTest, SeventyExperts) {
  std::vector<int32_t> offsets = {0};
  for (int e = 0; e < 70; ++e) offsets.push_back(offsets.back() + (e % 3 == 0 ? e % 5 : 0));
  const OwnedActivations x = RandomActivations(Scheme::kInteger, offsets.back(), 64, 7);
  GemmRun run{.x = x.view(), .offsets = offsets, .output = DType::kI32};
  for (uint64_t e = 0; e < 70; ++e) {
    run.experts.push_back(RandomWeight(FormatOf(GemmMode::kFolded4, 64), 8, 64, e));
  }
  ExpectReference(run);
}

}  // namespace
}  // namespace intermix::cuda
