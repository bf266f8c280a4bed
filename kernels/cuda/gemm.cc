#include "kernels/cuda/gemm.h"

#include "kernels/core/check.h"
#include "kernels/cuda/gemm_large_m_s8_sm80.h"
#include "kernels/cuda/gemm_small_m_s8_sm80.h"

namespace intermix::cuda {

void LaunchGemm(const GemmArgs& args, GemmMode mode, const GemmPlan& plan, cudaStream_t stream) {
  CHECK(args.output != GemmOutput::kI32 || !SumsInFloat(mode)) << "float scales have no int32 sums";
  CHECK(args.row_offsets != nullptr || args.num_experts == 1)
      << args.num_experts << " experts need row offsets";
  if (kGemmTiles[plan.tile].family == GemmFamily::kSmallM) {
    LaunchGemmSmallM(args, mode, plan, stream);
  } else {
    LaunchGemmLargeM(args, mode, plan, stream);
  }
}

}  // namespace intermix::cuda
