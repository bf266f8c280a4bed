#include <string>

#include "kernels/core/check.h"
#include "kernels/cuda/cuda_backend_class.h"

namespace intermix {
namespace cuda {
namespace {

class RecordedGraph final : public CudaGraph {
 public:
  explicit RecordedGraph(const CudaContext& context) : context_(context) {}
  ~RecordedGraph() override {
    if (graph_ == nullptr) return;
    context_.MakeCurrent();
    context_.Check(cudaStreamSynchronize(context_.stream()), "ending a recorded step");
    context_.Check(cudaGraphExecDestroy(graph_), "ending a recorded step");
  }

  bool recorded() const override { return graph_ != nullptr; }

  void Run(const std::function<void()>& work, const std::function<bool(bool)>& agree) override {
    if (recordable_ && graph_ == nullptr) Record(work);
    if (graph_ != nullptr) {
      context_.MakeCurrent();
      context_.Check(cudaGraphLaunch(graph_, context_.stream()), "launching a recorded step");
      return;
    }
    const int64_t before = context_.host_work();
    work();
    recordable_ = agree(context_.host_work() == before);
  }

 private:
  void Record(const std::function<void()>& work) {
    context_.MakeCurrent();
    // Other threads, NCCL's among them, may call what a recording thread may not.
    context_.Check(cudaStreamBeginCapture(context_.stream(), cudaStreamCaptureModeThreadLocal),
                   "recording a step");
    work();
    cudaGraph_t recording = nullptr;
    context_.Check(cudaStreamEndCapture(context_.stream(), &recording), "recording a step");
    context_.Check(cudaGraphInstantiate(&graph_, recording, 0), "preparing a recorded step");
    context_.Check(cudaGraphDestroy(recording), "preparing a recorded step");
  }

  const CudaContext& context_;
  bool recordable_ = false;  // the last run needed nothing of the host, on any rank
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<CudaGraph> MakeCudaGraph(Backend& backend) {
  const auto* cuda = dynamic_cast<const cuda::CudaBackend*>(&backend);
  CHECK(cuda != nullptr) << backend.name() << " has no CUDA graphs";
  return std::make_unique<cuda::RecordedGraph>(cuda->context());
}

}  // namespace intermix
