// ForwardContext: everything that one step of the model reads besides the weights. Passed
// explicitly; made by the rank for each step.
#pragma once

#include "comm/execution.h"
#include "comm/parallel_linear.h"
#include "kernels/backend.h"
#include "runtime/kv/kv_cache.h"

namespace intermix {

struct ForwardContext {
  Execution exec;
  const KvCache& cache;
  TokenRows rows;        // of this rank's dp group
  Tensor token_ids;      // [rows.tokens] int32
  PagedRows paged;       // where those tokens sit
  Tensor logits_tokens;  // [n] int32, ascending: which of the tokens want logits
};

}  // namespace intermix
