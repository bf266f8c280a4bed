// ModelRunner: "run this batch on all ranks", as the engine sees it; a fake stands in for it in
// tests.
#pragma once

#include <cstdint>

#include "kernels/core/tensor.h"
#include "runtime/engine/batch.h"

namespace intermix {

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;

  virtual int32_t vocab_size() const = 0;
  virtual int32_t max_context() const = 0;  // positions a sequence may reach
  virtual int32_t num_dp_groups() const = 0;
  virtual int32_t num_kv_blocks() const = 0;  // in each dp group
  virtual int32_t block_size() const = 0;     // positions in a block

  // Broadcasts the batch, steps every rank, and returns the wanted rows' logits on the host,
  // in the order of the batch's chunks: [rows, vocab_size] float32, valid until the next call;
  // rows may be strided.
  // Called on rank 0 only, from one thread.
  virtual Tensor Step(const Batch& batch) = 0;

  // Tells every other rank to leave its loop. No Step may follow.
  virtual void Stop() = 0;
};

}  // namespace intermix
