#include "kernels/cuda/gemm.h"

#include "kernels/core/check.h"
#include "kernels/cuda/gemm_decode_s8_sm80.h"
#include "kernels/cuda/gemm_large_m_s8_sm80.h"
#include "kernels/cuda/gemm_small_m_s8_sm80.h"
#include "kernels/cuda/gemm_wgmma_s8_sm90.h"

namespace intermix::cuda {

void LaunchGemm(const GemmArgs& args, GemmMode mode, const GemmPlan& plan, cudaStream_t stream) {
  CHECK(args.output != GemmOutput::kI32 || !SumsInFloat(mode)) << "float scales have no int32 sums";
  CHECK(args.row_offsets != nullptr || args.num_experts == 1)
      << args.num_experts << " experts need row offsets";
  CHECK(args.output != GemmOutput::kSiluMul || kGemmTiles[plan.tile].family != GemmFamily::kWgmma)
      << "wgmma has no gated epilogue";
  switch (kGemmTiles[plan.tile].family) {
    case GemmFamily::kDecode:
      return LaunchGemmDecode(args, mode, plan, stream);
    case GemmFamily::kSmallM:
      return LaunchGemmSmallM(args, mode, plan, stream);
    case GemmFamily::kLargeM:
      return LaunchGemmLargeM(args, mode, plan, stream);
    case GemmFamily::kWgmma:
      return LaunchGemmWgmma(args, mode, plan, stream);
  }
}

}  // namespace intermix::cuda
