#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.h"
#include "tests/kernels/cuda/device_memory.h"
#include "tests/kernels/cuda/fragments.h"

namespace intermix::cuda {
namespace {

template <Fragment kFragment>
__global__ void ExecuteKernel(const uint32_t* in, uint32_t* out) {
  const int lane = static_cast<int>(threadIdx.x);
  const uint32_t* w = in + lane * kFragmentWords;
  uint32_t result[kFragmentResults];
  if constexpr (kFragment == Fragment::kMmaS8 || kFragment == Fragment::kMmaU8S8) {
    const uint32_t a[4] = {w[0], w[1], w[2], w[3]}, b[2] = {w[4], w[5]};
    int32_t d[4];
    for (int i = 0; i < 4; ++i) d[i] = static_cast<int32_t>(w[6 + i]);
    if constexpr (kFragment == Fragment::kMmaS8) {
      mma_m16n8k32_s8(d, a, b);
    } else {
      mma_m16n8k32_u8_s8(d, a, b);
    }
    for (int i = 0; i < 4; ++i) result[i] = static_cast<uint32_t>(d[i]);
  } else if constexpr (kFragment == Fragment::kMmaBf16) {
    const uint32_t a[4] = {w[0], w[1], w[2], w[3]}, b[2] = {w[4], w[5]};
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = float_of_bits(w[6 + i]);
    mma_m16n8k16_bf16(d, a, b);
    for (int i = 0; i < 4; ++i) result[i] = bits_of_float(d[i]);
  } else {
    uint32_t* rows = reinterpret_cast<uint32_t*>(shared_memory());
    for (int i = 0; i < 4; ++i) rows[lane * 4 + i] = w[i];
    sync_warp();
    if constexpr (kFragment == Fragment::kLdmatrix) {
      ldmatrix_x4(result, rows + w[4] * 4);
    } else {
      ldmatrix_x4_trans(result, rows + w[4] * 4);
    }
  }
  for (int i = 0; i < kFragmentResults; ++i) out[lane * kFragmentResults + i] = result[i];
}

}  // namespace

std::vector<uint32_t> RunFragment(Fragment fragment, const std::vector<uint32_t>& in) {
  CHECK_EQ(in.size(), 32u * kFragmentWords);
  std::vector<uint32_t> result(32 * kFragmentResults);
  const size_t bytes = result.size() * sizeof(uint32_t);
  const DeviceMemory from = DeviceMemory::Copy(in);
  const DeviceMemory to = DeviceMemory::Zeros(bytes);
  const auto run = [&](auto kernel) {
    Launch("ExecuteKernel", kernel, {.grid = 1, .block = 32, .shared_bytes = 32 * 16},
           from.at<uint32_t>(), to.at<uint32_t>());
  };
  switch (fragment) {
    case Fragment::kMmaS8:
      run(ExecuteKernel<Fragment::kMmaS8>);
      break;
    case Fragment::kMmaU8S8:
      run(ExecuteKernel<Fragment::kMmaU8S8>);
      break;
    case Fragment::kMmaBf16:
      run(ExecuteKernel<Fragment::kMmaBf16>);
      break;
    case Fragment::kLdmatrix:
      run(ExecuteKernel<Fragment::kLdmatrix>);
      break;
    case Fragment::kLdmatrixTrans:
      run(ExecuteKernel<Fragment::kLdmatrixTrans>);
      break;
  }
  CHECK_EQ(cudaMemcpy(result.data(), to.data(), bytes, cudaMemcpyDeviceToHost), cudaSuccess);
  return result;
}

}  // namespace intermix::cuda
