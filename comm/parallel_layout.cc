#include "comm/parallel_layout.h"

#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace intermix {

absl::StatusOr<ParallelLayout> ParallelLayout::Make(int world, int tp, int ep, int num_experts,
                                                    int cut) {
  if (world < 1) return absl::InvalidArgumentError("a layout needs at least one rank");
  CHECK(cut >= 1 && world % cut == 0) << world << " ranks cut by " << cut;
  if (tp < 0 || ep < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tp ", tp, " and --ep ", ep, " must be 0 (automatic) or positive"));
  }
  if (tp == 0) tp = world;
  if (world % tp != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tp ", tp, " does not divide the ", world, " ranks of this job"));
  }
  if (num_experts == 0) {
    if (ep > 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("--ep ", ep, " needs a mixture-of-experts model; this one is dense"));
    }
    ep = 1;
  } else if (ep == 0) {
    ep = std::gcd(world / cut, num_experts);
  }
  if (world % ep != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--ep ", ep, " does not divide the ", world, " ranks of this job"));
  }
  if (num_experts > 0 && num_experts % ep != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--ep ", ep, " does not divide the model's ", num_experts, " experts"));
  }
  return ParallelLayout{.world = world, .tp = tp, .ep = ep, .dp = world / tp, .etp = world / ep};
}

std::string ParallelLayout::ToString() const {
  return absl::StrCat("world ", world, ": dp ", dp, " x tp ", tp, ", ep ", ep, " x etp ", etp);
}

}  // namespace intermix
