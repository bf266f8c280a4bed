// Preflight: whether a job can run, judged before it loads anything, from what every rank found on
// its host. Pure functions of the facts, so that all ranks come to the same verdict and everything
// that is wrong is said at once.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "launch/rank_facts.h"

namespace intermix {

struct Verdict {
  std::vector<std::string> failures;  // a sentence each; none: the job can run
  std::vector<std::string> warnings;  // it runs, but not as well as it could

  // FAILED_PRECONDITION with all failures, a line each.
  absl::Status status() const;
};

// `ranks` are those of the job, in order.
Verdict Judge(const std::vector<RankFacts>& ranks);

// Threads for `rank` where nothing was asked for: the CPUs that it has to itself, and its share of
// those on which other ranks of its host may run too. At least 1.
int FairThreads(const std::vector<RankFacts>& ranks, int rank);

}  // namespace intermix
