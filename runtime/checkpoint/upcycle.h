// Upcycling: makes a Mixtral out of a dense LLaMA. Every expert is the dense model's MLP, each
// rewritten in its own way (expert_rewrite.h); the router is random. Mixtral's routing weights add
// up to one, so whatever the routing, the text is the dense model's: what a model for tests of
// routing should be like. Streams: memory stays near two tensors.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace intermix {

struct UpcycleOptions {
  std::string model_directory;  // Hugging Face, LlamaForCausalLM
  std::string out_directory;
  int64_t num_experts = 8;
  int64_t top_k = 2;
  uint64_t seed = 0;  // of orders, powers of two and router
  std::function<void(int64_t bytes_done, int64_t bytes_total)> progress;  // may be empty
  std::function<bool()> cancelled;  // asked between tensors; may be empty
};

struct UpcycleSummary {
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
};

// out_directory appears when it is complete, and not at all after an error or a cancellation.
//   INVALID_ARGUMENT, NOT_FOUND: no dense model, one that is quantised, numbers of experts that no
//   model may have, an out_directory that is not empty.  UNAVAILABLE: the disk.
//   CANCELLED: `cancelled` returned true.
absl::StatusOr<UpcycleSummary> UpcycleCheckpoint(const UpcycleOptions& options);

}  // namespace intermix
