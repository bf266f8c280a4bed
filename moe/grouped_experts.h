// GroupedExperts: gate, up, SiLU and down of this rank's experts over rows sorted by expert.
// A dense MLP is the same with one expert. Under expert tensor parallelism each rank of the group
// holds a slice of the outputs of gate, up and down.
// Engine thread only.
#pragma once

#include <memory>
#include <vector>

#include "comm/execution.h"
#include "comm/parallel_linear.h"
#include "kernels/backend.h"

namespace intermix {

// One expert's packed weights.
struct ExpertWeights {
  std::unique_ptr<PackedWeight> gate_up;  // [2 * intermediate / etp, hidden], of PrepackGated
  std::unique_ptr<PackedWeight> down;     // [hidden / etp, intermediate]

  int64_t bytes() const { return gate_up->bytes() + down->bytes(); }
};

class GroupedExperts {
 public:
  // `group` is the communicator of the ranks that share the experts' columns; it outlives this.
  GroupedExperts(std::vector<ExpertWeights> experts, Communicator& group);

  // Whether rows enter as int8.
  bool quantized() const { return gate_up_.front()->quantized(); }

  //   rows         [n, hidden], sorted by expert; the same on every rank of the group
  //   row_offsets  [experts + 1] int32; empty: the only expert has all rows
  //   returns      [n, hidden / etp] bfloat16; rows after the last expert's hold anything
  Tensor Forward(const Execution& exec, TokenPlacement placement, const Activations& rows,
                 const Tensor& row_offsets) const;

  int64_t weight_bytes() const;

 private:
  std::vector<ExpertWeights> experts_;
  std::vector<const PackedWeight*> gate_up_;
  std::vector<const PackedWeight*> down_;
  TensorGroup group_;
};

}  // namespace intermix
