// StepGraphs: launches a step's kernels at once where the device can. A step whose shape was seen
// before is recorded as a CUDA graph and from then on replayed; on other devices, and where graphs
// are not wanted, every step is run op by op. No bit depends on it. Engine thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace intermix {

class StepGraphs {
 public:
  // `backend`, and all that steps use, outlives it.
  StepGraphs(Backend& backend, bool wanted);

  // What `forward` returns: a tensor that it makes with ops of the backend and with collectives.
  //   shape  all that these depend on but for what lies in memory, which memory included
  Tensor Run(const std::vector<int64_t>& shape, const std::function<Tensor()>& forward);

 private:
  struct Step {
    std::unique_ptr<CudaGraph> graph;
    Tensor result;
  };

  Backend& backend_;
  bool wanted_;
  std::map<std::vector<int64_t>, Step> steps_;
};

}  // namespace intermix
