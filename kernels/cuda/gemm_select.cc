#include "kernels/cuda/gemm_select.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/core/check.h"
#include "kernels/core/int_math.h"

namespace intermix::cuda {
namespace {

// Multiply-adds per clock and SM that a tile of kGemmTiles reaches when nothing else holds it up.
// mma.sync int8 gives 2048 on sm_80 and about 2500 on sm_90, wgmma 4096; narrow tiles are bound by
// the shared memory that feeds them, those of kDecode by their instructions.
struct TileRate {
  double sums;      // modes without partial sums
  double promotes;  // modes with them
  // Of kDecode, in clocks: what one warp takes for a stage beside the SM's others, and what the end
  // of a tile costs its SM.
  double stage = 0;
  double end = 0;
};
constexpr std::array<TileRate, kGemmTiles.size()> kRates = {{{220, 190},
                                                             {410, 330},
                                                             {600, 440},
                                                             {750, 550},
                                                             {2000, 0},
                                                             {1700, 1400},
                                                             {2400, 0},
                                                             {1900, 1650},
                                                             {300, 250, 1700, 700},
                                                             {620, 510, 1900, 700},
                                                             {390, 330, 800, 1400},
                                                             {860, 720, 2000, 1200},
                                                             {580, 490, 1300, 1100},
                                                             {230, 190, 600, 950},
                                                             {370, 310, 1100, 100},
                                                             {600, 0, 2200, 700}}};

constexpr double kL2BytesPerClock = 40;    // per SM
constexpr double kDramBytesPerClock = 18;  // per SM
// Filling the pipeline and storing, per wave of tiles of 128 out features.
constexpr double kTileClocks = 2000;
constexpr double kShareClocks = 8000;  // of kSmallM besides: its blocks meet in global memory
constexpr double kHalfTile = 0.75;     // what GemmTile::halves leaves of a tile's time
// By how many square roots of the mean the rows of experts differ from it.
constexpr double kSpread = 2.5;

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

// How rows fall to experts that have any: half of them are busier than the others.
struct Load {
  int32_t experts;
  int32_t busy_rows;   // of one expert
  int32_t other_rows;  // of one of the others
};

// How much of its last row tile an expert has to multiply: all, or (GemmTile::halves) less.
double LastTile(int32_t rows, const GemmTile& tile) {
  const int32_t in_last = (rows - 1) % tile.tokens() + 1;
  return tile.halves() && in_last <= tile.tokens() / 2 ? kHalfTile : 1.0;
}

double LoadClocks(const GemmProblem& problem, const Load& load, int32_t tile,
                  const GemmDevice& device) {
  const GemmTile& t = kGemmTiles[tile];
  double tiles = 0;  // and what there is to multiply, in whole tiles
  double work = 0;
  for (const int32_t rows : {load.busy_rows, load.other_rows}) {
    const double row_tiles = static_cast<double>(CeilDiv(rows, t.tokens()));
    const double slabs = static_cast<double>(Slabs(problem, t)) * load.experts / 2;
    tiles += slabs * row_tiles;
    work += slabs * (row_tiles - 1 + LastTile(rows, t));
  }
  const double rate = Promotes(problem.mode) ? kRates[tile].promotes : kRates[tile].sums;
  const double unit_clocks = std::max(t.features() * t.tokens() * double{kStageK} / rate,
                                      t.StageBytes(problem.mode) / kL2BytesPerClock);
  const double tile_clocks = unit_clocks * static_cast<double>(Stages(problem));
  const double weight_bytes =
      double{1} * load.experts * problem.n * problem.k * CodeBits(problem.mode) / 8;
  const double dram_clocks = weight_bytes / (kDramBytesPerClock * device.sm_count);
  if (t.family == GemmFamily::kDecode) {
    // All SMs have their share of the work, and each block its tiles one after the other, in which
    // a warp's stages follow each other; where memory holds fewer blocks than registers, sooner.
    const double blocks = BlocksPerSm(tile, problem, device);
    const double in_turn = std::ceil(tiles / (device.sm_count * blocks));
    const double stage_clocks = kRates[tile].stage * (1 + blocks / t.blocks_per_sm) / 2;
    const double warp_clocks =
        static_cast<double>(CeilDiv(Stages(problem), t.warps_k)) * stage_clocks;
    return std::max({std::ceil(work / device.sm_count) * (tile_clocks + kRates[tile].end),
                     in_turn * (warp_clocks + kRates[tile].end), dram_clocks});
  }
  const bool shared = t.family == GemmFamily::kSmallM && !SumsInFloat(problem.mode);
  const double waves = shared ? tiles / device.sm_count : std::ceil(tiles / device.sm_count);
  return std::max(waves * tile_clocks, dram_clocks) +
         kTileClocks * t.features() / 128 * std::max(waves, 1.0) + (shared ? kShareClocks : 0);
}

}  // namespace

int32_t GemmSharedBytes(int32_t tile, GemmMode mode, int32_t experts) {
  const GemmTile& t = kGemmTiles[tile];
  return GemmHeaderBytes(t, experts) + t.PipelineBytes(mode);
}

double GemmClocks(const GemmProblem& problem, int32_t tile, const GemmDevice& device) {
  const int32_t experts = std::min(problem.experts, problem.rows);
  if (experts == 0) return 0;
  const int32_t rows = problem.rows_per_expert > 0 ? problem.rows_per_expert
                                                   : CeilDiv(problem.rows, problem.experts);
  const Load even = {.experts = experts, .busy_rows = rows, .other_rows = rows};
  if (experts == 1 || problem.rows_per_expert > 0) return LoadClocks(problem, even, tile, device);
  // Nobody knows the routing: it may be even, or some experts are busier than others.
  const auto more = static_cast<int32_t>(std::ceil(kSpread * std::sqrt(double{1} * rows)));
  const Load uneven = {
      .experts = experts, .busy_rows = rows + more, .other_rows = std::max(rows - more, 1)};
  return (LoadClocks(problem, even, tile, device) + LoadClocks(problem, uneven, tile, device)) / 2;
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
