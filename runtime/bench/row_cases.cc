// Ops on rows: what they read and write is their work.
#include <functional>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "runtime/bench/device_data.h"
#include "runtime/bench/kernel_cases.h"
#include "runtime/bench/random_weight.h"
#include "runtime/engine/sampler.h"

namespace intermix {
namespace {

using Prepare = std::function<PreparedKernel(Backend& backend)>;

double Bytes(std::initializer_list<Tensor> tensors) {
  double total = 0.0;
  for (const Tensor& t : tensors) total += static_cast<double>(t.bytes());
  return total;
}

// Experts of each slot, any but the same twice in a row of two.
std::vector<int32_t> RandomExperts(const ModelConfig& config, int64_t tokens) {
  std::vector<int32_t> experts;
  for (int64_t t = 0; t < tokens; ++t) {
    uint64_t bits = 0;
    FillRandomBits(static_cast<uint64_t>(t + 1), &bits, 1);
    for (int64_t k = 0; k < config.num_experts_per_tok; ++k) {
      const auto first = static_cast<int64_t>(bits % 1024);
      experts.push_back(static_cast<int32_t>((first + k) % config.num_local_experts));
    }
  }
  return experts;
}

PreparedKernel PrepareQuantize(Backend& backend, int64_t tokens, int64_t width) {
  const auto data = std::make_shared<DeviceData>(backend);
  const Tensor x = data->Random(DType::kBF16, {tokens, width});
  const Activations out{.values = data->Zeros(DType::kI8, {tokens, width}),
                        .scales = data->Zeros(DType::kF32, {tokens})};
  return {.work = {.bytes = Bytes({x, x, out.values})},
          .run = [&backend, data, x, out] { backend.QuantizeRows(x, Tensor(), out); }};
}

// Where the normalised rows of a residual go.
struct NormData {
  NormData(DeviceData& data, int64_t tokens, int64_t width)
      : residual(data.Random(DType::kF32, {tokens, width})),
        norm{.weight = data.Random(DType::kF32, {width}), .eps = 1e-5f},
        out{.values = data.Zeros(DType::kF32, {tokens, width}),
            .activations = {.values = data.Zeros(DType::kI8, {tokens, width}),
                            .scales = data.Zeros(DType::kF32, {tokens})}} {}
  double bytes() const { return Bytes({residual, out.values, out.activations.values}); }

  Tensor residual;
  Norm norm;
  NormedRows out;
};

PreparedKernel PrepareNorm(Backend& backend, int64_t tokens, int64_t width) {
  const auto data = std::make_shared<DeviceData>(backend);
  const NormData rows(*data, tokens, width);
  return {.work = {.bytes = rows.bytes()},
          .run = [&backend, data, rows] { backend.RmsNorm(rows.residual, rows.norm, rows.out); }};
}

// The sum with a layer's results, or with those of each token's experts, and the norm after it.
PreparedKernel PrepareAddNorm(Backend& backend, int64_t tokens, int64_t width, int64_t top_k) {
  const auto data = std::make_shared<DeviceData>(backend);
  const NormData rows(*data, tokens, width);
  const bool experts = top_k > 0;
  const Delta delta{.rows = data->Random(DType::kBF16, {experts ? tokens * top_k : tokens, width}),
                    .weights = experts ? data->Random(DType::kF32, {tokens, top_k}) : Tensor()};
  return {.work = {.bytes = rows.bytes() + Bytes({rows.residual, delta.rows})},
          .run = [&backend, data, rows, delta] {
            backend.AddRmsNorm(delta, rows.residual, rows.norm, rows.out);
          }};
}

PreparedKernel PrepareRope(Backend& backend, const ModelConfig& config, int64_t tokens,
                           DType kv_dtype) {
  const auto data = std::make_shared<DeviceData>(backend);
  const int64_t kv_width = config.num_key_value_heads * config.head_dim;
  const int64_t blocks = (tokens + kCacheBlockSize - 1) / kCacheBlockSize;
  std::vector<int32_t> positions;
  for (int64_t t = 0; t < tokens; ++t) positions.push_back(static_cast<int32_t>(t));
  const Tensor q =
      data->Random(DType::kF32, {tokens, config.num_attention_heads * config.head_dim});
  const Tensor k = data->Random(DType::kF32, {tokens, kv_width});
  const Tensor v = data->Random(DType::kF32, {tokens, kv_width});
  const Tensor rope = data->Random(DType::kF32, {tokens, config.head_dim});
  const KvLayer cache =
      data->Cache(kv_dtype, blocks, config.num_key_value_heads, kCacheBlockSize, config.head_dim);
  const PagedRows rows{.positions = data->Ints(positions), .slots = data->Ints(positions)};
  const int64_t position_bytes = AttentionShapeOf(cache, 0).position_bytes;
  return {.work = {.bytes = Bytes({q, q, k, k, v}) + static_cast<double>(tokens * position_bytes)},
          .run = [&backend, data, q, k, v, rope, rows, cache] {
            backend.RopeAndStoreKv(q, k, v, rope, rows, cache);
          }};
}

PreparedKernel PrepareRoute(Backend& backend, const ModelConfig& config, int64_t tokens) {
  const auto data = std::make_shared<DeviceData>(backend);
  const Tensor x = data->Random(DType::kF32, {tokens, config.hidden_size});
  const Tensor gate = data->Random(DType::kF32, {config.num_local_experts, config.hidden_size});
  const Tensor experts = data->Zeros(DType::kI32, {tokens, config.num_experts_per_tok});
  const Tensor weights = data->Zeros(DType::kF32, {tokens, config.num_experts_per_tok});
  return {.work = {.bytes = Bytes({x, gate})}, .run = [&backend, data, x, gate, experts, weights] {
            backend.Route(x, gate, experts, weights);
          }};
}

// What a rank does to its rows before the experts.
PreparedKernel PreparePermute(Backend& backend, const ModelConfig& config, int64_t tokens) {
  const auto data = std::make_shared<DeviceData>(backend);
  const int64_t top_k = config.num_experts_per_tok;
  const Tensor experts = data->Ints(RandomExperts(config, tokens), top_k);
  const auto rows = [&](int64_t n) {
    return Activations{.values = data->Random(DType::kI8, {n, config.hidden_size}),
                       .scales = data->Random(DType::kF32, {n})};
  };
  const Activations x = rows(tokens);
  const ExpertOrder order{.token_of_row = data->Zeros(DType::kI32, {tokens * top_k}),
                          .row_of_slot = data->Zeros(DType::kI32, {tokens * top_k}),
                          .row_offsets = data->Zeros(DType::kI32, {config.num_local_experts + 1}),
                          .totals = data->Zeros(DType::kI32, {config.num_local_experts}),
                          .rows = rows(tokens * top_k)};
  return {
      .work = {.bytes = Bytes({experts, order.rows.values, order.rows.values})},
      .run = [&backend, data, experts, x, order] { backend.SortByExpert(experts, 0, x, order); }};
}

// Runs on the host, whatever the device.
PreparedKernel PrepareSample(const ModelConfig& config, const SamplingParams& params) {
  const auto logits =
      std::make_shared<OwnedTensor>(RandomValues(DType::kF32, 1, config.vocab_size, 3.0, 1));
  const auto sampler = std::make_shared<Sampler>();
  const auto choice = std::make_shared<int32_t>(0);  // each draws its own number
  return {.run = [logits, sampler, choice, params] {
    const auto row = std::span<const float>(logits->view.data<float>(),
                                            static_cast<size_t>(logits->view.num_elements()));
    CHECK(sampler->Sample(row, params, {.choice = (*choice)++}).ok());
  }};
}

}  // namespace

std::vector<KernelCase> RowCases(const KernelCaseOptions& options) {
  const ModelConfig& config = options.config;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const DType kv_dtype = options.kv_dtype;
  std::vector<KernelCase> cases;
  for (const int64_t t : options.tokens) {
    const auto add = [&](const char* op, int64_t width, Prepare prepare) {
      cases.push_back(
          {.op = op, .shape = absl::StrCat(width), .tokens = t, .prepare = std::move(prepare)});
    };
    add("quantise", inner, [=](Backend& b) { return PrepareQuantize(b, t, inner); });
    add("norm", hidden, [=](Backend& b) { return PrepareNorm(b, t, hidden); });
    add("add and norm", hidden, [=](Backend& b) { return PrepareAddNorm(b, t, hidden, 0); });
    add("rope", config.head_dim, [=](Backend& b) { return PrepareRope(b, config, t, kv_dtype); });
    if (!config.is_moe()) continue;
    add("route", hidden, [=](Backend& b) { return PrepareRoute(b, config, t); });
    add("sort and gather", hidden, [=](Backend& b) { return PreparePermute(b, config, t); });
    add("combine and norm", hidden,
        [=](Backend& b) { return PrepareAddNorm(b, t, hidden, config.num_experts_per_tok); });
  }
  const auto add_sampling = [&](const char* how, const SamplingParams& params) {
    cases.push_back({.op = "sample",
                     .shape = absl::StrCat(how, " of ", config.vocab_size),
                     .tokens = 1,
                     .prepare = [=](Backend&) { return PrepareSample(config, params); }});
  };
  add_sampling("the likeliest", {});
  add_sampling("top-p 0.9", {.temperature = 1.0f, .top_p = 0.9f});
  return cases;
}

}  // namespace intermix
