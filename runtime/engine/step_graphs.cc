#include "runtime/engine/step_graphs.h"

namespace intermix {
namespace {

// Each holds some MB of the device's memory. Beyond that many, all are recorded anew.
constexpr size_t kMaxGraphs = 256;

}  // namespace

StepGraphs::StepGraphs(Backend& backend, bool wanted)
    : backend_(backend), wanted_(wanted && backend.device() == Device::kCuda) {}

Tensor StepGraphs::Run(const std::vector<int64_t>& shape, const std::function<Tensor()>& forward) {
  if (!wanted_) return forward();
  if (steps_.size() >= kMaxGraphs && !steps_.contains(shape)) steps_.clear();
  Step& step = steps_[shape];
  if (step.graph == nullptr) step.graph = MakeCudaGraph(backend_);
  step.graph->Run([&] { step.result = forward(); });
  return step.result;
}

}  // namespace intermix
