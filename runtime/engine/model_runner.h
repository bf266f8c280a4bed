// ModelRunner: "run this batch on all ranks", as the engine sees it; a fake stands in for it in
// tests.
#pragma once

#include <cstdint>

#include "runtime/engine/batch.h"
#include "runtime/engine/step_logits.h"

namespace intermix {

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;

  virtual int32_t vocab_size() const = 0;
  virtual int32_t max_context() const = 0;  // positions a sequence may reach
  virtual int32_t num_dp_groups() const = 0;
  virtual int32_t num_kv_blocks() const = 0;  // in each dp group
  virtual int32_t block_size() const = 0;     // positions in a block

  // Broadcasts the batch, steps every rank, and returns the wanted rows' logits in the order of the
  // batch's chunks, valid until the next call. Called on rank 0 only, from one thread.
  virtual StepLogits Step(const Batch& batch) = 0;

  // Tells every other rank to leave its loop. No Step may follow.
  virtual void Stop() = 0;
};

}  // namespace intermix
