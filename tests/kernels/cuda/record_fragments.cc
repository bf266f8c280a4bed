// record_fragments FILE: what this machine's GPU answers to random fragments, for
// tests/data/fragments. Run it on a new kind of GPU, and keep the file.
#include <cuda_runtime.h>

#include <bit>
#include <cstdio>
#include <numeric>
#include <random>
#include <utility>

#include "kernels/core/check.h"
#include "tests/kernels/cuda/fragments.h"

namespace intermix::cuda {
namespace {

constexpr int kCasesOfEach = 4;

// A whole number of at most 8 bits as a bfloat16: products and sums are exact in any order.
uint32_t SmallBf16(std::mt19937& random) {
  const float value = static_cast<float>(static_cast<int>(random() % 255) - 127);
  return std::bit_cast<uint32_t>(value) >> 16;
}

std::vector<uint32_t> DrawInput(Fragment fragment, std::mt19937& random) {
  std::vector<uint32_t> in(32 * kFragmentWords, 0);
  std::vector<uint32_t> rows(32);
  std::iota(rows.begin(), rows.end(), 0);
  for (size_t i = rows.size() - 1; i > 0; --i) std::swap(rows[i], rows[random() % (i + 1)]);
  for (size_t lane = 0; lane < 32; ++lane) {
    uint32_t* words = in.data() + lane * kFragmentWords;
    const bool ldmatrix = fragment == Fragment::kLdmatrix || fragment == Fragment::kLdmatrixTrans;
    for (int i = 0; i < (ldmatrix ? 4 : 10); ++i) {
      if (fragment != Fragment::kMmaBf16) {
        words[i] = static_cast<uint32_t>(random());
      } else if (i < 6) {
        words[i] = SmallBf16(random) | SmallBf16(random) << 16;
      } else {
        words[i] = SmallBf16(random) << 16;
      }
    }
    if (ldmatrix) words[4] = rows[lane];
  }
  return in;
}

std::vector<uint32_t> DrawProduct(const Product& product, std::mt19937& random) {
  std::vector<uint32_t> in;
  for (int i = 0; i < product.words_a() + product.words_b(); ++i) {
    in.push_back(SmallBf16(random) | SmallBf16(random) << 16);
  }
  for (int i = 0; i < product.words_d(); ++i) in.push_back(SmallBf16(random) << 16);
  return in;
}

}  // namespace
}  // namespace intermix::cuda

int main(int argc, char** argv) {
  using namespace intermix::cuda;
  if (argc != 2) {
    std::fprintf(stderr, "usage: record_fragments FILE\n");
    return 2;
  }
  cudaDeviceProp properties;
  CHECK_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
  std::mt19937 random(20240614);
  std::vector<FragmentCase> cases;
  for (const char* name : {"mma_m16n8k32_s8", "mma_m16n8k16_bf16", "ldmatrix_x4",
                           "ldmatrix_x4_trans", "mma_m16n8k32_u8_s8"}) {
    for (int i = 0; i < kCasesOfEach; ++i) {
      const std::vector<uint32_t> in = DrawInput(FragmentOf(name), random);
      cases.push_back({.instruction = name, .in = in, .out = RunFragment(FragmentOf(name), in)});
    }
  }
  for (const Product& product : kProducts) {
    if (properties.major != 9 || properties.minor != 0) break;
    const std::vector<uint32_t> in = DrawProduct(product, random);
    cases.push_back({.instruction = product.instruction, .in = in, .out = RunProduct(product, in)});
  }
  WriteFragmentCases(argv[1], properties.name, cases);
  return 0;
}
