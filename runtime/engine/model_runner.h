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

  // Broadcasts the batch, which lives until Finish, and has every rank begin it. What the caller
  // does before Finish goes on while the other ranks compute, and this one's device too where it
  // works by itself. Rank 0 only, from one thread, as what follows.
  virtual void Start(const Batch& batch) = 0;

  // Waits for the step that was started. Returns the wanted rows' logits in the order of the
  // batch's chunks, valid until the next Start.
  virtual StepLogits Finish() = 0;

  StepLogits Step(const Batch& batch) {
    Start(batch);
    return Finish();
  }

  // Tells every other rank to leave its loop. No step may follow.
  virtual void Stop() = 0;
};

}  // namespace intermix
