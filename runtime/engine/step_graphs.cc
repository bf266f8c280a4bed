#include "runtime/engine/step_graphs.h"

#include "comm/agreement.h"
#include "kernels/core/check.h"

namespace intermix {
namespace {

// Each holds some MB of the device's memory. Beyond that many, all are recorded anew.
constexpr size_t kMaxGraphs = 256;

}  // namespace

StepGraphs::StepGraphs(Backend& backend, Communicator& control, bool wanted)
    : backend_(backend), control_(control), wanted_(wanted && backend.device() == Device::kCuda) {}

bool StepGraphs::Replays(const std::vector<int64_t>& shape) const {
  const auto step = steps_.find(shape);
  return step != steps_.end() && step->second.graph != nullptr && step->second.graph->recorded();
}

Tensor StepGraphs::Run(const std::vector<int64_t>& shape, const void* memory,
                       const std::function<Tensor()>& forward) {
  if (!wanted_) return forward();
  if (steps_.size() >= kMaxGraphs && !steps_.contains(shape)) steps_.clear();
  Step& step = steps_[shape];
  if (step.graph == nullptr) {
    step.graph = MakeCudaGraph(backend_);
    step.memory = memory;
  }
  CHECK(step.memory == memory) << "a step's memory moved";
  step.graph->Run([&] { step.result = forward(); },
                  [this](bool mine) { return AgreeThat(control_, mine); });
  return step.result;
}

}  // namespace intermix
