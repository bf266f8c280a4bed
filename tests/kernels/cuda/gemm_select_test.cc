// Which tile and how many blocks a GEMM gets: facts about the choice, without a GPU.
#include "kernels/cuda/gemm_select.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace intermix::cuda {
namespace {

constexpr GemmDevice kH100;
constexpr GemmDevice kA100 = {.sm_count = 108,
                              .shared_bytes_per_sm = 164 * 1024,
                              .shared_bytes_per_block = 163 * 1024,
                              .wgmma = false};
constexpr GemmDevice kAda = {.sm_count = 142,
                             .shared_bytes_per_sm = 100 * 1024,
                             .shared_bytes_per_block = 99 * 1024,
                             .wgmma = false};

GemmMode ModeAt(int i) { return static_cast<GemmMode>(i); }

TEST(GemmSelectTest, FewTokensPerExpertTakeTheNarrowestTileThatHoldsThem) {
  struct Case {
    int32_t experts, rows, per_expert, tile_tokens;
  };
  for (const Case& c : {Case{1, 1, 0, 8}, Case{1, 8, 0, 8}, Case{1, 9, 0, 16}, Case{1, 16, 0, 16},
                        Case{8, 2, 0, 8}, Case{8, 64, 8, 8}, Case{8, 128, 0, 16},
                        Case{8, 512, 16, 16}, Case{1, 32, 0, 32}, Case{8, 256, 32, 32}}) {
    for (int mode = 0; mode < kNumGemmModes; ++mode) {
      const GemmPlan plan = SelectGemm({.mode = ModeAt(mode),
                                        .n = 28672,
                                        .k = 4096,
                                        .experts = c.experts,
                                        .rows = c.rows,
                                        .rows_per_expert = c.per_expert},
                                       kH100);
      const bool wide = Promotes(ModeAt(mode)) && !SumsInFloat(ModeAt(mode));
      if (wide && c.tile_tokens > 16) continue;  // two narrow tiles may be faster
      EXPECT_EQ(kGemmTiles[plan.tile].family,
                SumsInFloat(ModeAt(mode)) ? GemmFamily::kSmallM : GemmFamily::kDecode);
      EXPECT_EQ(kGemmTiles[plan.tile].tokens(), c.tile_tokens) << c.rows << " rows, mode " << mode;
    }
  }
}

// Some experts will have more than the mean, and a tile leaves out a half that is empty.
TEST(GemmSelectTest, TilesOfExpertsHoldMoreThanTheMean) {
  for (const int32_t n : {28672, 4096}) {
    GemmProblem problem = {.n = n, .k = 4096, .experts = 8, .rows = 64};
    EXPECT_EQ(kGemmTiles[SelectGemm(problem, kH100).tile].tokens(), 16);
    problem.rows = 32;
    EXPECT_EQ(kGemmTiles[SelectGemm(problem, kH100).tile].tokens(), 16);
  }
}

TEST(GemmSelectTest, ManyTokensTakeTheLargeTileOfTheMode) {
  for (const GemmDevice& device : {kH100, kA100}) {
    for (int mode = 0; mode < kNumGemmModes; ++mode) {
      const GemmPlan plan = SelectGemm(
          {.mode = ModeAt(mode), .n = 14336, .k = 4096, .experts = 8, .rows = 16384}, device);
      EXPECT_EQ(kGemmTiles[plan.tile].family,
                device.wgmma ? GemmFamily::kWgmma : GemmFamily::kLargeM)
          << mode;
      EXPECT_EQ(kGemmTiles[plan.tile].promotes, Promotes(ModeAt(mode)));
      EXPECT_EQ(plan.blocks, device.sm_count);
    }
  }
}

TEST(GemmSelectTest, TilesThatWouldLeaveHalfOfTheDeviceIdleAreHalved) {
  const GemmProblem problem = {.n = 4096, .k = 4096, .rows = 512};
  EXPECT_LE(PlanGemm(problem, 4, kH100).blocks, kH100.sm_count / 2);
  const GemmPlan plan = SelectGemm(problem, kH100);
  EXPECT_EQ(kGemmTiles[plan.tile].family, GemmFamily::kWgmma);
  EXPECT_EQ(plan.blocks, 128);
}

TEST(GemmSelectTest, EveryChoiceRunsTheModeAndFitsTheDevice) {
  for (const GemmDevice& device : {kH100, kA100, kAda}) {
    for (int mode = 0; mode < kNumGemmModes; ++mode) {
      for (const int32_t experts : {1, 8, 128}) {
        for (const int32_t rows : {0, 1, 7, 33, 100, 512, 5000}) {
          for (const int32_t n : {8, 200, 32000}) {
            const GemmPlan plan = SelectGemm(
                {.mode = ModeAt(mode), .n = n, .k = 2048, .experts = experts, .rows = rows},
                device);
            EXPECT_TRUE(kGemmTiles[plan.tile].Runs(ModeAt(mode)));
            EXPECT_LE(GemmSharedBytes(plan.tile, ModeAt(mode), experts),
                      device.shared_bytes_per_block);
            EXPECT_LE(plan.blocks, kGemmMaxBlocks);
            EXPECT_EQ(plan.blocks > 0, rows > 0);
          }
        }
      }
    }
  }
}

// Every block that a plan may start has its slot, or several launches would share sums.
TEST(GemmSelectTest, WorkspaceHoldsASlotForEveryBlock) {
  for (const GemmDevice& device : {kH100, kA100, kAda}) {
    for (int32_t tile = 0; tile < static_cast<int32_t>(kGemmTiles.size()); ++tile) {
      const bool cuts = kGemmTiles[tile].sums_only;  // a float sum is never cut
      if (kGemmTiles[tile].family != GemmFamily::kSmallM || !cuts) continue;
      const GemmPlan plan = PlanGemm({.n = 32000, .k = 8192, .rows = 4096}, tile, device);
      const int64_t slot = int64_t{4} * kGemmTiles[tile].features() * kGemmTiles[tile].tokens();
      EXPECT_LE(int64_t{4} * kGemmMaxBlocks + plan.blocks * slot,
                static_cast<int64_t>(GemmWorkspaceBytes(device)));
    }
  }
}

TEST(GemmSelectTest, GridsAreSizedForTheWorstRouting) {
  // 3 rows over 8 experts: at most 3 row tiles, of one slab and 4 stages each.
  const GemmProblem few = {.n = 128, .k = 512, .experts = 8, .rows = 3};
  EXPECT_EQ(PlanGemm(few, 3, kH100).blocks, 3);
  // Tiles of 32 out features, which are never cut: 4 slabs.
  EXPECT_EQ(PlanGemm(few, 8, kH100).blocks, 12);
  // Large tiles are never cut: one block each. 130 rows may need one tile for each of 8 experts
  // and one more.
  const GemmProblem many = {.n = 256, .k = 4096, .experts = 8, .rows = 130};
  EXPECT_EQ(PlanGemm(many, 4, kH100).blocks, 9);
  // A float sum is never cut either.
  const GemmProblem whole = {.mode = GemmMode::kFloat4, .n = 128, .k = 4096, .rows = 1};
  EXPECT_EQ(PlanGemm(whole, 0, kH100).blocks, 1);
}

TEST(GemmSelectTest, MoreWorkNeverCostsLess) {
  for (int32_t tile = 0; tile < static_cast<int32_t>(kGemmTiles.size()); ++tile) {
    const GemmMode mode = kGemmTiles[tile].sums_only ? GemmMode::kFolded4 : GemmMode::kFloat4;
    double before = 0;
    for (int32_t rows = 1; rows <= 4096; rows *= 2) {
      const double clocks =
          GemmClocks({.mode = mode, .n = 4096, .k = 4096, .rows = rows}, tile, kH100);
      EXPECT_GE(clocks, before);
      before = clocks;
    }
  }
}

}  // namespace
}  // namespace intermix::cuda
