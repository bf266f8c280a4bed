#include "runtime/engine/rank.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "comm/agreement.h"
#include "comm/parallel_groups.h"
#include "comm/watchdog.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/engine/batch_channel.h"
#include "runtime/engine/device.h"
#include "runtime/engine/kv_sizing.h"
#include "runtime/engine/step_executor.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/transformer.h"

namespace intermix {
namespace {

// What Create assembles, in the order in which the parts depend on each other.
struct Parts {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Watchdog> watchdog;
  ParallelGroups groups;
  std::unique_ptr<Transformer> model;
  std::unique_ptr<KvCache> cache;
  std::string description;
  int32_t max_context = 0;
};

class RankImpl final : public Rank, public ModelRunner {
 public:
  RankImpl(Parts parts, const StepExecutor::Options& options)
      : parts_(std::move(parts)),
        executor_(*parts_.model, *parts_.cache, parts_.groups, *parts_.backend, options) {}

  // Rank
  const ModelConfig& config() const override { return parts_.model->config(); }
  const ParallelLayout& layout() const override { return parts_.groups.layout; }
  Communicator& world() override { return *parts_.groups.control; }
  std::string device_name() const override { return std::string(parts_.backend->name()); }
  std::string model_description() const override { return parts_.description; }
  int64_t weight_bytes() const override { return parts_.model->weight_bytes(); }
  int64_t kv_bytes() const override { return parts_.cache->bytes(); }
  const RankProgress& progress() const override { return progress_; }
  std::vector<int64_t> expert_tokens() const override { return executor_.expert_tokens(); }
  ModelRunner& runner() override { return *this; }

  void RunWorker() override {
    CHECK_NE(world().rank(), 0);
    for (;;) {
      const Batch batch = ReceiveBatch(world());
      if (batch.stop) return;
      Begin(batch);
      End(batch);
    }
  }

  // ModelRunner
  int32_t vocab_size() const override { return static_cast<int32_t>(config().vocab_size); }
  int32_t max_context() const override { return parts_.max_context; }
  int32_t num_dp_groups() const override { return layout().dp; }
  int32_t num_kv_blocks() const override {
    return static_cast<int32_t>(parts_.cache->shape().num_blocks);
  }
  int32_t block_size() const override {
    return static_cast<int32_t>(parts_.cache->shape().block_size);
  }
  // A step that the device does not run by itself is begun by Finish: what the caller has to do
  // before that takes less time.
  void Start(const Batch& batch) override {
    CHECK(!batch.stop && world().rank() == 0);
    SendBatch(world(), batch);
    pending_ = &batch;
    if (executor_.RunsByItself(batch)) Begin(batch);
  }
  StepLogits Finish() override {
    CHECK(pending_ != nullptr);
    if (!begun_.has_value()) Begin(*pending_);
    return End(*std::exchange(pending_, nullptr));
  }
  void Stop() override {
    CHECK_EQ(world().rank(), 0);
    SendBatch(world(), Batch{.stop = true});
  }

 private:
  void Begin(const Batch& batch) {
    work_.emplace(*parts_.watchdog,
                  absl::StrCat("step ", batch.step, ", of ", batch.num_tokens(), " tokens"));
    progress_.in_step = true;
    begun_ = absl::Now();
    executor_.Start(batch);
  }
  StepLogits End(const Batch& batch) {
    const StepLogits logits = executor_.Finish();
    progress_.tokens += batch.num_tokens();
    progress_.step = batch.step;
    progress_.step_us += absl::ToInt64Microseconds(absl::Now() - *begun_);
    progress_.in_step = false;
    begun_.reset();
    work_.reset();
    return logits;
  }

  Parts parts_;
  StepExecutor executor_;
  RankProgress progress_;
  const Batch* pending_ = nullptr;   // started and not finished; rank 0
  std::optional<absl::Time> begun_;  // when this rank began its step, while it is in one
  std::optional<Watchdog::Work> work_;
};

// The parts of start-up that need no other rank; each may fail on its own.
struct Opened {
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Backend> backend;
  ParallelLayout layout;
  ShardPlan plan;
  int32_t max_context = 0;
};

absl::StatusOr<Opened> Open(const RankOptions& options, const Communicator& world) {
  Opened opened;
  absl::StatusOr<std::unique_ptr<Backend>> backend = OpenDevice(options, world.rank());
  if (!backend.ok()) return backend.status();
  opened.backend = *std::move(backend);
  if (options.observe) opened.backend = options.observe(std::move(opened.backend));

  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
      OpenCheckpoint(options.model_directory, options.quant);
  if (!checkpoint.ok()) return checkpoint.status();
  opened.checkpoint = *std::move(checkpoint);

  const ModelConfig& config = opened.checkpoint->config();
  absl::StatusOr<ParallelLayout> layout =
      ParallelLayout::Make(world.size(), options.tp, options.ep,
                           static_cast<int>(config.num_local_experts), options.cut);
  if (!layout.ok()) return layout.status();
  opened.layout = *layout;

  absl::StatusOr<ShardPlan> plan = MakeShardPlan(config.shard_dims(), *layout, world.rank());
  if (!plan.ok()) return plan.status();
  opened.plan = *std::move(plan);

  absl::StatusOr<int32_t> max_context = DecideMaxContext(options.max_context, config);
  if (!max_context.ok()) return max_context.status();
  opened.max_context = *max_context;
  if (absl::Status s = CheckModel(options, config, opened.plan); !s.ok()) return s;
  return opened;
}

// What this rank may take of its device's memory; ranks on CPUs share their host's.
int64_t FreeBytes(const RankOptions& options, const Parts& parts) {
  const int64_t free = parts.backend->free_bytes();
  if (parts.backend->device() != Device::kCpu) return free;
  return free / (options.local_size > 0 ? options.local_size : parts.groups.control->size());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Rank>> Rank::Create(const RankOptions& options,
                                                   std::unique_ptr<Communicator> world) {
  absl::StatusOr<Opened> opened = Open(options, *world);
  if (absl::Status s = AgreeOnStatus(*world, opened.status()); !s.ok()) return s;
  const ModelConfig& config = opened->checkpoint->config();

  Parts parts;
  parts.backend = std::move(opened->backend);
  parts.watchdog = std::make_unique<Watchdog>(
      Watchdog::Options{.who = absl::StrCat("rank ", world->rank()),
                        .limit = StepLimit(*parts.backend, world->size())});
  {
    const Watchdog::Work work(*parts.watchdog, "connecting the ranks' devices");
    absl::StatusOr<std::unique_ptr<Communicator>> devices =
        ConnectDevices(*parts.backend, *parts.watchdog, *world);
    if (!devices.ok()) return devices.status();
    parts.groups = MakeParallelGroups(opened->layout, std::move(world), *std::move(devices));
    parts.groups.overlap_tokens = options.overlap_tokens;
  }
  parts.description = absl::StrCat(config.architecture, ", ", opened->checkpoint->description());
  parts.max_context = opened->max_context;

  absl::StatusOr<std::unique_ptr<Transformer>> model = Transformer::Load(
      *opened->checkpoint, parts.groups, *parts.backend, parts.max_context, options.load_progress);
  if (absl::Status s = AgreeOnStatus(*parts.groups.control, model.status()); !s.ok()) return s;
  parts.model = *std::move(model);

  KvCacheShape shape = {.num_layers = config.num_hidden_layers,
                        .num_kv_heads = opened->plan.kv_heads.size(),
                        .block_size = options.block_size,
                        .head_dim = config.head_dim,
                        .dtype = options.kv_dtype};
  absl::StatusOr<int64_t> blocks = DecideKvBlocks({.memory_bytes = options.kv_memory_bytes,
                                                   .fraction = options.kv_fraction,
                                                   .max_context = parts.max_context,
                                                   .free_bytes = FreeBytes(options, parts)},
                                                  shape, *parts.groups.control);
  if (!blocks.ok()) return blocks.status();
  shape.num_blocks = *blocks;
  parts.cache = std::make_unique<KvCache>(shape, *parts.backend);
  return std::make_unique<RankImpl>(
      std::move(parts),
      StepExecutor::Options{.dispatch = options.dispatch, .cuda_graphs = options.cuda_graphs});
}

}  // namespace intermix
