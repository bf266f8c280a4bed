// Rank: what one process of a job owns: its device, its shard of the model, its KV cache and its
// place among the others. Built the same way on every rank, then rank 0 gets a ModelRunner for its
// engine and the others serve it in RunWorker.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/communicator.h"
#include "comm/parallel_layout.h"
#include "kernels/backend.h"
#include "kernels/quant/integer_scale.h"
#include "runtime/engine/model_runner.h"
#include "runtime/model/model_config.h"

namespace intermix {

struct RankOptions {
  std::string model_directory;
  QuantSpec quant;             // for a directory that is not quantised yet
  std::string device = "cpu";  // "cpu", "cuda" or "reference" (the scalar oracle; slow)
  int local_rank = -1;         // among this host's ranks: which GPU is its own; -1: the rank
  int local_size = 0;          // ranks of this host, which share its memory; 0: all
  int tp = 0;                  // 0: automatic
  int ep = 0;                  // 0: automatic
  int cut = 1;                 // see ParallelLayout::Make
  int num_threads = 0;         // 0: automatic
  bool pin_threads = false;
  int32_t max_context = 0;      // 0: the model's max_position_embeddings
  int64_t kv_memory_bytes = 0;  // 0: enough for 16 sequences of max_context, within free memory
  double kv_fraction = 0.0;     // in place of kv_memory_bytes: a part of what loading leaves free
  int32_t block_size = 16;
  DType kv_dtype = DType::kBF16;  // or kI8: half the bytes, see runtime/kv
  // How tokens reach their experts: automatic by batch size, or forced (tests, measurements).
  enum class Dispatch : uint8_t { kAuto, kAllToAll, kReplicated };
  Dispatch dispatch = Dispatch::kAuto;
  // See ParallelGroups (tests, measurements).
  std::optional<int64_t> overlap_tokens;
  bool cuda_graphs = true;  // launch the kernels of a decode step at once
  // What stands between the model and its backend (measurements); empty: nothing.
  std::function<std::unique_ptr<Backend>(std::unique_ptr<Backend>)> observe;
  // Called on this rank after each layer is loaded, with bytes of its weights; may be empty.
  std::function<void(int64_t done, int64_t total)> load_progress;
};

// Progress of a running rank, read by heartbeats from any thread.
struct RankProgress {
  std::atomic<int64_t> step{0};
  std::atomic<int64_t> tokens{0};   // stepped since start
  std::atomic<int64_t> step_us{0};  // microseconds spent in steps since start
  std::atomic<bool> in_step{false};
};

class Rank {
 public:
  // Collective over `world`. Fails with the same status on every rank: the lowest failing rank's.
  static absl::StatusOr<std::unique_ptr<Rank>> Create(const RankOptions& options,
                                                      std::unique_ptr<Communicator> world);
  virtual ~Rank() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const ParallelLayout& layout() const = 0;
  virtual Communicator& world() = 0;
  virtual std::string device_name() const = 0;  // "cpu avx512 x2"
  virtual std::string model_description()
      const = 0;  // "MixtralForCausalLM, integer folded W4 g128"
  virtual int64_t weight_bytes() const = 0;
  virtual int64_t kv_bytes() const = 0;
  virtual const RankProgress& progress() const = 0;
  // Tokens that each expert got since start, summed over layers; empty for a dense model. Any
  // thread.
  virtual std::vector<int64_t> expert_tokens() const = 0;

  // Rank 0's handle to all ranks.
  virtual ModelRunner& runner() = 0;

  // Every other rank: steps with rank 0's batches until it says stop.
  virtual void RunWorker() = 0;
};

}  // namespace intermix
