// How many KV blocks a rank can hold.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/model_config.h"

namespace intermix {

struct KvSizing {
  int64_t memory_bytes = 0;  // per rank; 0: the fraction
  double fraction = 0.0;     // of free_bytes; 0: automatic
  int64_t max_context = 0;   // positions
  int64_t free_bytes = 0;    // of this rank's device, this rank's part of it
};

// Collective: the same number on every rank, the smallest that any can hold. Automatic sizing takes
// 16 sequences of max_context, or what half of the free memory can hold.
//   INVALID_ARGUMENT: not even one block fits; says how much is needed.
absl::StatusOr<int64_t> DecideKvBlocks(const KvSizing& sizing, const KvCacheShape& shape,
                                       Communicator& control);

// Tokens of the longest sequence: `wanted`, or where that is 0 what the model was made for.
//   INVALID_ARGUMENT: more than that.
absl::StatusOr<int32_t> DecideMaxContext(int32_t wanted, const ModelConfig& config);

}  // namespace intermix
