// Per k32 step a warp issues 32 mma (64 out features by 64 tokens), unpacks 4 fragments with 56
// integer instructions and reads 3 KB of shared memory: on sm_90 some 208 clocks of the tensor
// core against 80 of the integer pipe and 96 of shared memory (for the 4 warps of one turn).
#include "kernels/cuda/gemm_kernel_sm80.h"
#include "kernels/cuda/gemm_large_m_s8_sm80.h"

namespace intermix::cuda {
namespace {

constexpr char kName[] = "gemm_large_m_s8_sm80";

template <GemmMode kMode>
void LaunchMode(const GemmArgs& args, const GemmPlan& plan, cudaStream_t stream) {
  if constexpr (!Promotes(kMode)) {  // partial sums would not fit beside this tile's
    if (plan.tile == 4) return LaunchTile<4, kMode>(kName, args, plan, stream);
  }
  CHECK_EQ(plan.tile, 5) << "not a tile of this family for the mode";
  LaunchTile<5, kMode>(kName, args, plan, stream);
}

}  // namespace

void LaunchGemmLargeM(const GemmArgs& args, GemmMode mode, const GemmPlan& plan,
                      cudaStream_t stream) {
  WithMode(mode, [&]<GemmMode kMode>() { LaunchMode<kMode>(args, plan, stream); });
}

}  // namespace intermix::cuda
