#include "kernels/cpu/isa.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace intermix {

std::string_view Name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "?";
}

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (IsSupported(isa)) isas.push_back(isa);
  }
  return isas;
}

absl::StatusOr<Isa> IsaFromEnvironment() {
  const char* wanted = std::getenv("INTERMIX_ISA");
  if (wanted == nullptr || *wanted == '\0') return SupportedIsas().back();
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (Name(isa) != wanted) continue;
    if (IsSupported(isa)) return isa;
    return absl::FailedPreconditionError(absl::StrCat("INTERMIX_ISA is \"", wanted,
                                                      "\", which this processor does not support; "
                                                      "unset it or use \"",
                                                      std::string(Name(SupportedIsas().back())),
                                                      "\""));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "INTERMIX_ISA is \"", wanted, "\"; it may be \"avx512\", \"avx2\" or \"scalar\""));
}

}  // namespace intermix
