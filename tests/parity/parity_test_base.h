// ParityTest: a test of CpuBackend against ReferenceBackend, once for each instruction set, with
// 1, 2 and 3 threads. On a machine that lacks an instruction set the test says so and is skipped.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/reference_backend.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"

namespace intermix {

class ParityTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!IsSupported(GetParam())) {
      GTEST_SKIP() << "this machine does not support " << Name(GetParam());
    }
    for (const int threads : {1, 2, 3}) {
      backends_.push_back(MakeCpuBackend({.threads = {.num_threads = threads}, .isa = GetParam()}));
    }
  }

  // The CPU backends under test; same instruction set, different numbers of threads.
  const std::vector<std::unique_ptr<Backend>>& backends() const { return backends_; }
  Backend& reference() { return reference_; }

  static std::unique_ptr<PackedWeight> Pack(Backend& backend,
                                            const std::vector<QuantizedWeight>& parts) {
    absl::StatusOr<std::unique_ptr<PackedWeight>> packed = backend.Prepack(parts);
    EXPECT_TRUE(packed.ok()) << packed.status();
    return packed.ok() ? *std::move(packed) : nullptr;
  }

  // Runs `op(backend, output)` on the reference and on every backend under test; the outputs, both
  // filled with the same bytes before, must be equal.
  template <typename Op>
  void ExpectSame(DType dtype, std::initializer_list<int64_t> shape, const Op& op) {
    OwnedTensor expected = OwnedTensor::Host(dtype, shape);
    op(reference_, expected.view);
    for (size_t i = 0; i < backends_.size(); ++i) {
      OwnedTensor actual = OwnedTensor::Host(dtype, shape);
      op(*backends_[i], actual.view);
      EXPECT_TRUE(BitwiseEqual(actual.view, expected.view)) << i + 1 << " threads";
    }
  }

 private:
  std::vector<std::unique_ptr<Backend>> backends_;
  ReferenceBackend reference_;
};

inline std::string IsaName(const ::testing::TestParamInfo<Isa>& info) {
  return std::string(Name(info.param));
}

inline auto AllIsas() { return ::testing::Values(Isa::kScalar, Isa::kAvx2, Isa::kAvx512); }

}  // namespace intermix
