#include "runtime/engine/device.h"

#include "absl/strings/str_cat.h"
#include "comm/nccl_communicator.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/model_limits.h"
#include "kernels/reference/reference_backend.h"

namespace intermix {

absl::StatusOr<std::unique_ptr<Backend>> OpenDevice(const RankOptions& options, int rank) {
  if (options.device == "reference") return MakeReferenceBackend();
  if (options.device == "cuda") {
    return MakeCudaBackend(
        {.device = options.local_rank < 0 ? rank : options.local_rank, .rank = rank});
  }
  if (options.device == "cpu") {
    absl::StatusOr<Isa> isa = IsaFromEnvironment();
    if (!isa.ok()) return isa.status();
    return MakeCpuBackend(
        {.threads = {.num_threads = options.num_threads, .pin = options.pin_threads}, .isa = *isa});
  }
  return absl::InvalidArgumentError(
      absl::StrCat("there is no device \"", options.device, "\"; use cpu, cuda or reference"));
}

absl::Status CheckModel(const RankOptions& options, const ModelConfig& config,
                        const ShardPlan& plan) {
  if (options.device != "cuda") return absl::OkStatus();
  return cuda::CheckModelShape({.hidden_size = config.hidden_size,
                                .num_heads = plan.heads.size(),
                                .head_dim = config.head_dim,
                                .num_experts = config.num_local_experts,
                                .int8_cache = options.kv_dtype == DType::kI8});
}

// A collective between GPUs whose peer is gone may never end. MPI ends its job by itself, and CPUs
// may be slow.
std::chrono::milliseconds StepLimit(const Backend& backend, int num_ranks) {
  return backend.device() == Device::kCpu || num_ranks == 1 ? std::chrono::milliseconds(0)
                                                            : std::chrono::minutes(5);
}

absl::StatusOr<std::unique_ptr<Communicator>> ConnectDevices(Backend& backend, Watchdog& watchdog,
                                                             Communicator& control) {
  std::unique_ptr<Communicator> ranks = control.Split(0, control.rank());
  if (backend.device() == Device::kCpu) return ranks;
  return MakeNcclCommunicator({.stream = CudaStreamOf(backend), .watchdog = watchdog},
                              std::move(ranks));
}

}  // namespace intermix
