// StepGraphs: launches a step's kernels at once where the device can. A step whose shape was seen
// before is recorded as a CUDA graph and from then on replayed; on other devices, and where graphs
// are not wanted, every step is run op by op. No bit depends on it. Engine thread.
//
// NCCL wants a collective recorded on all ranks or on none ("Using NCCL with CUDA Graphs"). So
// shapes are those of the whole job's step, and ranks record a step once all of them can.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace intermix {

class StepGraphs {
 public:
  // `backend`, `control` (all ranks, for host memory) and all that steps use outlive it.
  StepGraphs(Backend& backend, Communicator& control, bool wanted);

  bool wanted() const { return wanted_; }
  // Whether a step of that shape is recorded.
  bool Replays(const std::vector<int64_t>& shape) const;

  // What `forward` returns: a tensor that it makes with ops of the backend and with collectives.
  // Collective.
  //   shape   all that these depend on but for what lies in memory; the same on all ranks
  //   memory  where they find it: the same for each step of a shape
  Tensor Run(const std::vector<int64_t>& shape, const void* memory,
             const std::function<Tensor()>& forward);

 private:
  struct Step {
    std::unique_ptr<CudaGraph> graph;
    const void* memory = nullptr;
    Tensor result;
  };

  Backend& backend_;
  Communicator& control_;
  const bool wanted_;
  std::map<std::vector<int64_t>, Step> steps_;
};

}  // namespace intermix
