// kernels/cpu/isa: what the processor supports and what INTERMIX_ISA may ask for.
#include "kernels/cpu/isa.h"

#include <cstdlib>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"

namespace intermix {
namespace {

class IsaTest : public ::testing::Test {
 protected:
  void TearDown() override { unsetenv("INTERMIX_ISA"); }
  static absl::StatusOr<Isa> With(const std::string& value) {
    setenv("INTERMIX_ISA", value.c_str(), 1);
    return IsaFromEnvironment();
  }
};

TEST_F(IsaTest, UnsetMeansTheFastestSupported) {
  unsetenv("INTERMIX_ISA");
  EXPECT_EQ(IsaFromEnvironment().value(), SupportedIsas().back());
  EXPECT_EQ(With("").value(), SupportedIsas().back());
}

TEST_F(IsaTest, EverySupportedNameIsTakenAndNamesItsBackend) {
  EXPECT_EQ(SupportedIsas().front(), Isa::kScalar);
  for (const Isa isa : SupportedIsas()) {
    EXPECT_EQ(With(std::string(Name(isa))).value(), isa);
    const std::unique_ptr<Backend> backend =
        MakeCpuBackend({.threads = {.num_threads = 1}, .isa = isa});
    EXPECT_EQ(backend->name(), "cpu " + std::string(Name(isa)));
    EXPECT_EQ(backend->device(), Device::kCpu);
  }
}

TEST_F(IsaTest, UnknownAndUnsupportedAreRefusedInASentence) {
  EXPECT_EQ(With("sse9").status(),
            absl::InvalidArgumentError(
                "INTERMIX_ISA is \"sse9\"; it may be \"avx512\", \"avx2\" or \"scalar\""));
  if (!IsSupported(Isa::kAvx512)) {
    EXPECT_EQ(With("avx512").status().code(), absl::StatusCode::kFailedPrecondition);
  }
}

}  // namespace
}  // namespace intermix
