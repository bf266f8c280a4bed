// ParallelLayout: which ranks share what. A pure value; the groups are made from it by Split.
//
//   world = dp * tp   attention and dense layers: rank = dp_rank * tp + tp_rank
//   world = ep * etp  experts:                    rank = ep_rank * etp + etp_rank
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace intermix {

struct ParallelLayout {
  int world = 1;
  int tp = 1;   // tensor parallel ranks of attention and dense layers
  int ep = 1;   // expert parallel groups
  int dp = 1;   // = world / tp: groups that hold different sequences
  int etp = 1;  // = world / ep: tensor parallel ranks inside one expert group

  int tp_rank(int rank) const { return rank % tp; }
  int dp_rank(int rank) const { return rank / tp; }
  int etp_rank(int rank) const { return rank % etp; }
  int ep_rank(int rank) const { return rank / etp; }

  // tp or ep = 0 asks for the default: tp = world; ep = the largest divisor of world / cut that
  // also divides num_experts (1 for a dense model): at least `cut` ranks share each expert.
  //   cut  1, or a divisor of world: consecutive ranks for which an exchange costs next to nothing
  //        beside what they compute, as for CPUs of one host. An expert that all of them share
  //        leaves none idle, whatever the router says; one that is whole needs fewer exchanges.
  //   INVALID_ARGUMENT naming the numbers that do not divide.
  static absl::StatusOr<ParallelLayout> Make(int world, int tp, int ep, int num_experts,
                                             int cut = 1);

  std::string ToString() const;  // "world 4: dp 1 x tp 4, ep 2 x etp 2"

  friend bool operator==(const ParallelLayout&, const ParallelLayout&) = default;
};

}  // namespace intermix
