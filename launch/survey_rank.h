// SurveyRank: everything that can be known about one rank of a job before anything is loaded; for
// preflight.h to judge. Reads the model's small files and headers, opens the device and closes it.
#pragma once

#include "launch/rank_facts.h"
#include "runtime/engine/rank.h"

namespace intermix {

// `options` are this rank's, complete but for num_threads; `rank` of `world`.
RankFacts SurveyRank(const RankOptions& options, int rank, int world);

}  // namespace intermix
