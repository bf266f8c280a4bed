#include "kernels/cuda/gemm_select.h"

#include <algorithm>
#include <limits>

#include "kernels/core/check.h"
#include "kernels/core/int_math.h"

namespace intermix::cuda {
namespace {

// Multiply-adds per clock and SM that a tile of kGemmTiles reaches when nothing else holds it up.
// mma.sync int8 gives 2048 on sm_80 and about 2500 on sm_90, wgmma 4096; narrow tiles are bound by
// the shared memory that feeds them.
struct TileRate {
  double sums;      // modes without partial sums
  double promotes;  // modes with them
  double clocks;    // of kDecode, that one warp takes for a stage, alone on its scheduler
};
constexpr std::array<TileRate, kGemmTiles.size()> kRates = {{{400, 350, 0},
                                                             {750, 600, 0},
                                                             {1100, 800, 0},
                                                             {1400, 1000, 0},
                                                             {2000, 0, 0},
                                                             {1700, 1400, 0},
                                                             {3200, 0, 0},
                                                             {2800, 1800, 0},
                                                             {600, 500, 1100},
                                                             {1200, 1000, 1500},
                                                             {600, 500, 800},
                                                             {1200, 1000, 1900},
                                                             {750, 650, 1300},
                                                             {300, 250, 600}}};

constexpr double kL2BytesPerClock = 40;    // per SM
constexpr double kDramBytesPerClock = 18;  // per SM
// Filling the pipeline and storing, per wave of tiles of 128 out features.
constexpr double kTileClocks = 2000;
constexpr double kSharedTileClocks = 4000;  // of kSmallM, whose blocks meet in global memory
constexpr double kDecodeTileClocks = 500;   // the same of kDecode

int64_t Slabs(const GemmProblem& problem, const GemmTile& tile) {
  return CeilDiv(problem.n, tile.features());
}

int64_t Stages(const GemmProblem& problem) { return CeilDiv(problem.k, kStageK); }

// The most row tiles that any routing of the rows can make.
int64_t MaxRowTiles(const GemmProblem& problem, const GemmTile& tile) {
  if (problem.experts == 1) return CeilDiv(problem.rows, tile.tokens());
  return std::min<int64_t>(problem.rows, problem.rows / tile.tokens() + problem.experts);
}

int32_t BlocksPerSm(int32_t tile, const GemmProblem& problem, const GemmDevice& device) {
  constexpr int32_t kReserved = 1024;  // that the driver keeps of each block's shared memory
  const int32_t bytes = GemmSharedBytes(tile, problem.mode, problem.experts) + kReserved;
  return std::min(kGemmTiles[tile].blocks_per_sm, device.shared_bytes_per_sm / bytes);
}

bool Fits(int32_t tile, const GemmProblem& problem, const GemmDevice& device) {
  return kGemmTiles[tile].Runs(problem.mode) &&
         (device.wgmma || kGemmTiles[tile].family != GemmFamily::kWgmma) &&
         GemmSharedBytes(tile, problem.mode, problem.experts) <= device.shared_bytes_per_block &&
         BlocksPerSm(tile, problem, device) > 0;
}

}  // namespace

int32_t GemmSharedBytes(int32_t tile, GemmMode mode, int32_t experts) {
  const GemmTile& t = kGemmTiles[tile];
  return GemmHeaderBytes(t, experts) + t.PipelineBytes(mode);
}

double GemmClocks(const GemmProblem& problem, int32_t tile, const GemmDevice& device) {
  const GemmTile& t = kGemmTiles[tile];
  const int32_t experts = std::min(problem.experts, problem.rows);
  if (experts == 0) return 0;
  const int32_t rows = problem.rows_per_expert > 0 ? problem.rows_per_expert
                                                   : CeilDiv(problem.rows, problem.experts);
  const double tiles = static_cast<double>(experts) * CeilDiv(rows, t.tokens()) * Slabs(problem, t);
  const double rate = Promotes(problem.mode) ? kRates[tile].promotes : kRates[tile].sums;
  const double unit_clocks = std::max(t.features() * t.tokens() * double{kStageK} / rate,
                                      t.StageBytes(problem.mode) / kL2BytesPerClock);
  const double tile_clocks = unit_clocks * Stages(problem);
  const bool decode = t.family == GemmFamily::kDecode;
  const bool whole_tiles =
      (t.family != GemmFamily::kSmallM && !decode) || SumsInFloat(problem.mode);
  double waves = tiles / device.sm_count;
  if (decode) {  // K is not cut, and a warp's stages follow each other
    const int64_t slots = int64_t{device.sm_count} * BlocksPerSm(tile, problem, device);
    const double rounds = CeilDiv(static_cast<int64_t>(tiles), slots);
    const double serial_clocks = CeilDiv(Stages(problem), t.warps_k) * kRates[tile].clocks;
    waves = std::max(waves, rounds * serial_clocks / tile_clocks);
  }
  if (whole_tiles) waves = CeilDiv(static_cast<int64_t>(tiles), device.sm_count);
  const double fixed_clocks = decode                            ? kDecodeTileClocks
                              : t.family == GemmFamily::kSmallM ? kSharedTileClocks
                                                                : kTileClocks;
  const double weight_bytes =
      double{1} * experts * problem.n * problem.k * CodeBits(problem.mode) / 8;
  const double dram_clocks = weight_bytes / (kDramBytesPerClock * device.sm_count);
  return std::max(waves * tile_clocks, dram_clocks) +
         fixed_clocks * t.features() / 128 * std::max(waves, 1.0);
}

GemmPlan PlanGemm(const GemmProblem& problem, int32_t tile, const GemmDevice& device) {
  constexpr int32_t kMinUnits = 4;  // less K than this is not worth a block's start and its sums
  CHECK(Fits(tile, problem, device)) << "tile " << tile << " does not fit the device or the mode";
  const GemmTile& t = kGemmTiles[tile];
  const int64_t tiles = MaxRowTiles(problem, t) * Slabs(problem, t);
  const int64_t units = tiles * Stages(problem);
  CHECK(units <= std::numeric_limits<int32_t>::max())
      << problem.rows << " rows by " << problem.n << " out features are too many for one GEMM";
  const bool whole_tiles = t.family != GemmFamily::kSmallM || SumsInFloat(problem.mode);
  const int64_t useful = whole_tiles ? tiles : CeilDiv(units, kMinUnits);
  const int64_t resident = int64_t{device.sm_count} * BlocksPerSm(tile, problem, device);
  return {.tile = tile,
          .blocks = static_cast<int32_t>(std::min({useful, resident, int64_t{kGemmMaxBlocks}})),
          .min_units = kMinUnits};
}

GemmPlan SelectGemm(const GemmProblem& problem, const GemmDevice& device) {
  int32_t best = -1;
  double best_clocks = 0;
  for (int32_t tile = 0; tile < static_cast<int32_t>(kGemmTiles.size()); ++tile) {
    if (!Fits(tile, problem, device)) continue;
    const double clocks = GemmClocks(problem, tile, device);
    if (best >= 0 && clocks >= best_clocks) continue;
    best = tile;
    best_clocks = clocks;
  }
  CHECK(best >= 0) << "no GEMM tile fits " << device.shared_bytes_per_block
                   << " bytes of shared memory with " << problem.experts << " experts";
  return PlanGemm(problem, best, device);
}

size_t GemmWorkspaceBytes(const GemmDevice& device) {
  int64_t slots = 0;
  for (const GemmTile& tile : kGemmTiles) {
    if (tile.family != GemmFamily::kSmallM) continue;
    const int64_t blocks = std::min(kGemmMaxBlocks, device.sm_count * tile.blocks_per_sm);
    slots = std::max(slots, blocks * tile.features() * tile.tokens());
  }
  return static_cast<size_t>((kGemmMaxBlocks + slots) * 4);
}

}  // namespace intermix::cuda
