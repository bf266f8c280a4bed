// Grouped GEMM, on every instruction set and number of threads, equals ReferenceBackend bit for
// bit: experts with no rows, experts of different formats.
#include <algorithm>

#include "tests/parity/parity_test_base.h"
#include "tests/testing/gemm_cases.h"

namespace intermix {
namespace {

class GroupedGemmParityTest : public ParityTest {};

TEST_P(GroupedGemmParityTest, ExpertsWithNoRowsAndOfDifferentFormats) {
  for (const ScaleWidth width : {ScaleWidth::kFolded, ScaleWidth::kWide}) {
    for (const Scheme scheme : {Scheme::kInteger, Scheme::kFloat, Scheme::kNone}) {
      const WeightFormat format{
          .scheme = scheme, .scale_width = width, .bits = 4, .group_size = 32};
      SCOPED_TRACE(format.ToString());
      for (const std::vector<int32_t>& offsets : ExpertRowOffsets()) {
        const OwnedActivations x = RandomActivations(scheme, offsets.back(), 96, 7);
        const OwnedTensor row_offsets =
            OwnedTensor::Host(DType::kI32, {static_cast<int64_t>(offsets.size())});
        std::copy(offsets.begin(), offsets.end(), row_offsets.view.data<int32_t>());
        ExpectSame(DType::kBF16, {offsets.back(), 85}, [&](Backend& backend, const Tensor& y) {
          std::vector<std::unique_ptr<PackedWeight>> owned;
          std::vector<const PackedWeight*> experts;
          for (uint64_t e = 0; e + 1 < offsets.size(); ++e) {
            // Experts may differ in format: here every other one has longer groups.
            WeightFormat own = format;
            if (e % 2 == 1 && scheme != Scheme::kNone) own.group_size = 96;
            owned.push_back(Pack(backend, {RandomWeight(own, 40, 96, 100 + e),
                                           RandomWeight(format, 45, 96, 200 + e)}));
            experts.push_back(owned.back().get());
          }
          backend.GroupedGemm(x.view(), experts, row_offsets.view, y);
        });
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, GroupedGemmParityTest, AllIsas(), IsaName);

}  // namespace
}  // namespace intermix
