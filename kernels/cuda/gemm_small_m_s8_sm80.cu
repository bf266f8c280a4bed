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
  if constexpr (SumsInFloat(kMode)) {  // others have the family kDecode
    if (plan.tile == 0) return LaunchTile<0, kMode>(kName, args, plan, stream);
    if (plan.tile == 1) return LaunchTile<1, kMode>(kName, args, plan, stream);
  }
  if constexpr (Promotes(kMode)) {
    if (plan.tile == 2) return LaunchTile<2, kMode>(kName, args, plan, stream);
  }
  CHECK_EQ(plan.tile, 3) << "not a tile of this family for the mode";
  LaunchTile<3, kMode>(kName, args, plan, stream);
}

}  // namespace

void LaunchGemmSmallM(const GemmArgs& args, GemmMode mode, const GemmPlan& plan,
                      cudaStream_t stream) {
  WithMode(mode, [&]<GemmMode kMode>() { LaunchMode<kMode>(args, plan, stream); });
}

}  // namespace intermix::cuda
