// ForwardContext: everything that one step of the model reads besides the weights. Passed
// explicitly; made by the rank for each step.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/execution.h"
#include "comm/parallel_linear.h"
#include "kernels/backend.h"
#include "runtime/kv/kv_cache.h"

namespace intermix {

// Which tokens want logits.
struct LogitsRows {
  Tensor mine;                  // [n] int32: rows of this rank's residual, ascending
  std::vector<int64_t> counts;  // [tp] how many each rank of the group has, where rows are sharded
};

struct ForwardContext {
  Execution exec;
  const KvCache& cache;
  TokenRows rows;    // of this rank's dp group
  Tensor token_ids;  // [rows.tokens] int32
  PagedRows paged;   // where those tokens sit
  LogitsRows logits;
};

}  // namespace intermix
