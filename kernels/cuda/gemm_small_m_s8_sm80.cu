// Bandwidth-bound by design. Per stage and block: 8 KB of 4-bit codes, 1 to 8 KB of activations,
// at most 2 KB of scales; 3 or 4 stages in flight on each of 2 to 4 blocks keep some 100 KB per SM
// on the way, where latency times bandwidth of an H200 asks for 30.
#include "kernels/cuda/gemm_kernel_sm80.h"
#include "kernels/cuda/gemm_small_m_s8_sm80.h"

namespace intermix::cuda {
namespace {

template <GemmMode kMode>
void LaunchMode(const GemmArgs& args, const GemmPlan& plan, cudaStream_t stream) {
  constexpr char kName[] = "gemm_small_m_s8_sm80";
  switch (plan.tile) {
    case 0:
      return LaunchTile<0, kMode>(kName, args, plan, stream);
    case 1:
      return LaunchTile<1, kMode>(kName, args, plan, stream);
    case 2:
      return LaunchTile<2, kMode>(kName, args, plan, stream);
    default:
      CHECK_EQ(plan.tile, 3) << "not a tile of this family";
      return LaunchTile<3, kMode>(kName, args, plan, stream);
  }
}

}  // namespace

void LaunchGemmSmallM(const GemmArgs& args, GemmMode mode, const GemmPlan& plan,
                      cudaStream_t stream) {
  switch (mode) {
    case GemmMode::kFolded4:
      return LaunchMode<GemmMode::kFolded4>(args, plan, stream);
    case GemmMode::kWide4:
      return LaunchMode<GemmMode::kWide4>(args, plan, stream);
    case GemmMode::kFloat4:
      return LaunchMode<GemmMode::kFloat4>(args, plan, stream);
    case GemmMode::kPlain8:
      return LaunchMode<GemmMode::kPlain8>(args, plan, stream);
    case GemmMode::kWide8:
      return LaunchMode<GemmMode::kWide8>(args, plan, stream);
    case GemmMode::kFloat8:
      return LaunchMode<GemmMode::kFloat8>(args, plan, stream);
  }
}

}  // namespace intermix::cuda
