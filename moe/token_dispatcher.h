// TokenDispatcher: brings token rows to the ranks that hold their experts, and the results back.
//
// Rows travel as they enter the linear layers (int8 and scale), results as bfloat16, which they are
// rounded to in every layout. Results come back to their (token, slot), so that AddRmsNorm adds
// them in one order whatever the dispatcher. Every rank enters every collective, also with no
// tokens. Engine thread only; one step at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/execution.h"
#include "comm/parallel_groups.h"
#include "comm/parallel_linear.h"
#include "kernels/backend.h"
#include "moe/expert_placement.h"
#include "moe/routing.h"

namespace intermix {

// What a rank's experts work on.
struct ExpertInput {
  Activations rows;    // [n, hidden], sorted by expert; rows after the last expert's are nobody's
  Tensor row_offsets;  // [local experts + 1] int32: where each expert's rows begin
};

// What a rank's experts do.
struct ExpertWork {
  // [local experts] int32 on the device: rows that each has worked on, modulo 2^32. The dispatcher
  // adds to it.
  Tensor totals;
  // The experts' results of such rows: [n, hidden / etp] bfloat16, in the same order.
  std::function<Tensor(const ExpertInput& input)> run;
};

// Where the results of some of the tokens are.
struct ExpertResults {
  Slice tokens;
  Tensor rows;    // [*, hidden] bfloat16
  Tensor row_of;  // [tokens, top_k] int32; empty: slot (t, k) is row t * top_k + k
};

class TokenDispatcher {
 public:
  virtual ~TokenDispatcher() = default;

  // Brings the tokens to their experts, and the results back, of all tokens in ascending order.
  // Calls work.run once, or once for each part of the tokens where that saves time.
  //   rows     where the step's tokens are
  //   tokens   [rows.mine.size(), hidden]
  //   routing  of the same tokens
  virtual std::vector<ExpertResults> Run(const Execution& exec, const TokenRows& rows,
                                         const Activations& tokens, const Routing& routing,
                                         const ExpertWork& work) = 0;
};

// One rank holds everything: only sorts.
std::unique_ptr<TokenDispatcher> MakeLocalDispatcher();

// Prefill: each rank brings tokens that no other rank has (a shard); rows go by all-to-all to the
// ranks that need them and come back the same way. Exact counts.
// From `overlap_tokens` per rank on, in the mean over the ranks, each rank's tokens go in two
// halves, so that one half travels while the experts work on the other. Not where etp > 1: there
// the experts' own collectives would have to run meanwhile.
std::unique_ptr<TokenDispatcher> MakeAllToAllDispatcher(const ExpertPlacement& placement,
                                                        Communicator& world,
                                                        int64_t overlap_tokens);

// Decode: the ranks of a dp group bring the same tokens, so only results travel (with dp > 1 the
// groups' tokens are gathered first). No shape depends on the routing, and nothing is read back to
// the host.
std::unique_ptr<TokenDispatcher> MakeReplicatedDispatcher(const ExpertPlacement& placement,
                                                          const ParallelGroups& groups);

}  // namespace intermix
