// One decode step of tests/data/tiny-mixtral on one thread, between warm-up and exit, as a function
// of its own: count_instructions has callgrind count what it executes.
#include <iostream>
#include <memory>
#include <utility>

#include "comm/parallel_groups.h"
#include "comm/self_communicator.h"
#include "kernels/cpu/cpu_backend.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/engine/step_executor.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/transformer.h"

// What callgrind counts; a name without C++ around it.
extern "C" [[gnu::noinline]] void intermix_decode_step(intermix::StepExecutor& executor,
                                                       const intermix::Batch& batch) {
  executor.Run(batch);
  asm volatile("" ::: "memory");
}

namespace intermix {
namespace {

Batch StepAt(int32_t start, std::vector<int32_t> tokens) {
  SequenceChunk chunk{.start = start, .logits = LogitsWanted::kLast, .tokens = std::move(tokens)};
  chunk.blocks = {0, 1, 2, 3, 4};
  chunk.blocks.resize((static_cast<size_t>(start) + chunk.tokens.size() + 15) / 16);
  return Batch{.chunks = {std::move(chunk)}};
}

absl::Status Run(const std::string& directory) {
  absl::StatusOr<Isa> isa = IsaFromEnvironment();
  if (!isa.ok()) return isa.status();
  const std::unique_ptr<Backend> backend =
      MakeCpuBackend({.threads = {.num_threads = 1}, .isa = *isa});
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
      OpenCheckpoint(directory, {.scales = ScaleChoice::kFolded});
  if (!checkpoint.ok()) return checkpoint.status();
  const ParallelGroups groups =
      MakeParallelGroups(*ParallelLayout::Make(1, 1, 1, 0), MakeSelfCommunicator());
  absl::StatusOr<std::unique_ptr<Transformer>> model =
      Transformer::Load(**checkpoint, groups, *backend, /*max_positions=*/128, {});
  if (!model.ok()) return model.status();
  const ModelConfig& config = (*checkpoint)->config();
  const KvCache cache({.num_layers = config.num_hidden_layers,
                       .num_blocks = 8,
                       .num_kv_heads = config.num_key_value_heads,
                       .block_size = 16,
                       .head_dim = config.head_dim},
                      *backend);
  StepExecutor executor(**model, cache, groups, *backend, {});
  std::vector<int32_t> prompt(64);
  for (int32_t i = 0; i < 64; ++i) prompt[static_cast<size_t>(i)] = 3 + 7 * i;
  executor.Run(StepAt(0, std::move(prompt)));
  executor.Run(StepAt(64, {5}));  // scratch memory grows to its size
  intermix_decode_step(executor, StepAt(65, {9}));
  return absl::OkStatus();
}

}  // namespace
}  // namespace intermix

int main(int argc, char** argv) {
  const absl::Status status = intermix::Run(argc > 1 ? argv[1] : "tests/data/tiny-mixtral");
  if (status.ok()) return 0;
  std::cerr << "decode_step: " << status.message() << "\n";
  return 1;
}
