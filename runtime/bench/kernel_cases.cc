#include "runtime/bench/kernel_cases.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "runtime/bench/device_data.h"
#include "runtime/bench/random_weight.h"

namespace intermix {
namespace {

// Weights are used in turns from more memory than any cache holds, as a model's layers are.
constexpr int64_t kMoreThanCaches = int64_t{160} << 20;

WeightFormat Integer(ScaleWidth width, int bits, int64_t group_size) {
  return {.scale_width = width, .bits = bits, .group_size = group_size};
}

const WeightFormat kFolded128 = Integer(ScaleWidth::kFolded, 4, 128);

std::vector<WeightFormat> OtherFormats() {
  return {Integer(ScaleWidth::kFolded, 4, 32),
          Integer(ScaleWidth::kWide, 4, 128),
          Integer(ScaleWidth::kWide, 4, 32),
          Integer(ScaleWidth::kWide, 8, 128),
          {.scheme = Scheme::kFloat, .bits = 4, .group_size = 128},
          {.scheme = Scheme::kNone}};
}

struct LinearShape {
  std::string name;
  int64_t n = 0;
  int64_t k = 0;
};

bool Fits(const WeightFormat& format, const LinearShape& shape) {
  return format.scheme == Scheme::kNone || shape.k % format.group_size == 0;
}

// A layer's weight, as many copies as make `copies` and more than any cache.
class Weights {
 public:
  Weights(Backend& backend, const WeightFormat& format, const LinearShape& shape, size_t copies) {
    const QuantizedWeight weight = MakeRandomWeight(format, shape.n, shape.k, 1);
    for (int64_t bytes = 0; bytes < kMoreThanCaches || packed_.size() < copies;) {
      packed_.push_back(*backend.Prepack({&weight, 1}));
      bytes += std::max<int64_t>(packed_.back()->bytes(), kMoreThanCaches / 64);
    }
  }

  // The next `count` of them.
  std::vector<const PackedWeight*> Next(size_t count) {
    std::vector<const PackedWeight*> next;
    for (size_t i = 0; i < count; ++i) next.push_back(packed_[at_++ % packed_.size()].get());
    return next;
  }

 private:
  std::vector<std::unique_ptr<PackedWeight>> packed_;
  size_t at_ = 0;
};

PreparedKernel PrepareLinear(Backend& backend, const WeightFormat& format, const LinearShape& shape,
                             int64_t tokens) {
  const auto data = std::make_shared<DeviceData>(backend);
  const auto weights = std::make_shared<Weights>(backend, format, shape, 1);
  const Activations x = data->Rows(format.scheme != Scheme::kNone, tokens, shape.k);
  const Tensor y = data->Zeros(DType::kBF16, {tokens, shape.n});
  return {.work = LinearWork(*weights->Next(1)[0], tokens),
          .run = [&backend, data, weights, x, y] { backend.Gemm(x, *weights->Next(1)[0], y); }};
}

PreparedKernel PrepareExperts(Backend& backend, const WeightFormat& format,
                              const LinearShape& shape, const std::vector<int32_t>& row_offsets) {
  const auto data = std::make_shared<DeviceData>(backend);
  const size_t experts = row_offsets.size() - 1;
  const auto weights = std::make_shared<Weights>(backend, format, shape, experts);
  const int64_t rows = row_offsets.back();
  const Activations x = data->Rows(format.scheme != Scheme::kNone, rows, shape.k);
  const Tensor y = data->Zeros(DType::kBF16, {rows, shape.n});
  const Tensor offsets = data->Ints(row_offsets);
  return {.work = GroupedLinearWork(weights->Next(experts), row_offsets),
          .run = [&backend, data, weights, experts, x, y, offsets] {
            backend.GroupedGemm(x, weights->Next(experts), offsets, y);
          }};
}

struct AttentionCase {
  ModelConfig config;
  int64_t sequences = 1;
  int64_t rows = 1;     // of each sequence, its last positions
  int64_t context = 1;  // positions of each sequence
  DType kv_dtype = DType::kBF16;
};

PreparedKernel PrepareAttention(Backend& backend, const AttentionCase& c) {
  const auto data = std::make_shared<DeviceData>(backend);
  const ModelConfig& config = c.config;
  const int64_t blocks = (c.context + kCacheBlockSize - 1) / kCacheBlockSize;
  std::vector<int32_t> positions;
  std::vector<int32_t> slots;
  std::vector<int32_t> starts = {0};
  for (int64_t s = 0; s < c.sequences; ++s) {
    for (int64_t p = c.context - c.rows; p < c.context; ++p) {
      positions.push_back(static_cast<int32_t>(p));
      slots.push_back(static_cast<int32_t>(s * blocks * kCacheBlockSize + p));
    }
    starts.push_back(static_cast<int32_t>(positions.size()));
  }
  std::vector<int32_t> tables(static_cast<size_t>(c.sequences * blocks));
  std::iota(tables.begin(), tables.end(), 0);
  const int64_t width = config.num_attention_heads * config.head_dim;
  const KvLayer cache = data->Cache(c.kv_dtype, c.sequences * blocks, config.num_key_value_heads,
                                    kCacheBlockSize, config.head_dim);
  const PagedRows rows{.positions = data->Ints(positions),
                       .slots = data->Ints(slots),
                       .query_starts = data->Ints(starts),
                       .block_tables = data->Ints(tables, blocks)};
  std::vector<int32_t> kv_head_of;
  for (int64_t h = 0; h < config.num_attention_heads; ++h) {
    kv_head_of.push_back(
        static_cast<int32_t>(h * config.num_key_value_heads / config.num_attention_heads));
  }
  const Tensor q = data->Random(DType::kF32, {c.sequences * c.rows, width});
  const Tensor out = data->Zeros(DType::kBF16, {c.sequences * c.rows, width});
  return {
      .work = AttentionWork(AttentionShapeOf(cache, config.num_attention_heads), positions, starts),
      .run = [&backend, data, q, rows, cache, kv_head_of, out] {
        backend.PagedAttention(q, rows, cache, kv_head_of, 0.09f, out);
      }};
}

LinearShape Shape(const std::string& name, int64_t n, int64_t k) {
  return {.name = absl::StrCat(name, " ", n, "x", k), .n = n, .k = k};
}

LinearShape GateUp(const ModelConfig& config) {
  return Shape("gate_up", 2 * config.intermediate_size, config.hidden_size);
}

LinearShape Down(const ModelConfig& config) {
  return Shape("down", config.hidden_size, config.intermediate_size);
}

}  // namespace

std::vector<int32_t> EvenLoad(int64_t rows, int64_t experts) {
  std::vector<int32_t> offsets;
  for (int64_t e = 0; e <= experts; ++e) {
    offsets.push_back(static_cast<int32_t>(rows * e / experts));
  }
  return offsets;
}

std::vector<int32_t> SkewedLoad(int64_t rows, int64_t experts) {
  std::vector<int32_t> offsets = {0};
  int64_t left = rows;
  for (int64_t e = 1; e < experts; ++e) {
    left -= (left + 1) / 2;
    offsets.push_back(static_cast<int32_t>(rows - left));
  }
  offsets.push_back(static_cast<int32_t>(rows));
  return offsets;
}

std::vector<KernelCase> LinearCases(const KernelCaseOptions& options) {
  const ModelConfig& config = options.config;
  const int64_t q = config.num_attention_heads * config.head_dim;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  const LinearShape o = Shape("o", config.hidden_size, q);
  std::vector<std::pair<LinearShape, WeightFormat>> layers = {
      {Shape("qkv", q + 2 * kv, config.hidden_size), kFolded128},
      {o, kFolded128},
      {GateUp(config), kFolded128},
      {Down(config), kFolded128},
      {Shape("lm_head", config.vocab_size, config.hidden_size),
       Integer(ScaleWidth::kWide, 8, 128)}};
  for (const WeightFormat& format : OtherFormats()) layers.emplace_back(o, format);
  std::vector<KernelCase> cases;
  for (const auto& [shape, format] : layers) {
    if (!Fits(format, shape)) continue;
    for (const int64_t tokens : options.tokens) {
      cases.push_back({.op = "linear",
                       .shape = absl::StrCat(shape.name, " ", format.ToString()),
                       .tokens = tokens,
                       .prepare = [shape = shape, format = format, tokens](Backend& backend) {
                         return PrepareLinear(backend, format, shape, tokens);
                       }});
    }
  }
  return cases;
}

std::vector<KernelCase> ExpertCases(const KernelCaseOptions& options) {
  const ModelConfig& config = options.config;
  const int64_t experts = config.num_local_experts;
  if (experts == 0) return {};
  std::vector<KernelCase> cases;
  const auto add = [&](const LinearShape& shape, const WeightFormat& format, const char* load,
                       const std::vector<int32_t>& offsets) {
    if (!Fits(format, shape)) return;
    cases.push_back({.op = "experts",
                     .shape = absl::StrCat(shape.name, " ", format.ToString(), ", ", load),
                     .tokens = offsets.back() / config.num_experts_per_tok,
                     .prepare = [shape, format, offsets](Backend& backend) {
                       return PrepareExperts(backend, format, shape, offsets);
                     }});
  };
  for (const int64_t tokens : options.tokens) {
    const int64_t rows = tokens * config.num_experts_per_tok;
    for (const LinearShape& shape : {GateUp(config), Down(config)}) {
      add(shape, kFolded128, "even", EvenLoad(rows, experts));
      add(shape, kFolded128, "skewed", SkewedLoad(rows, experts));
    }
    add(Down(config), Integer(ScaleWidth::kWide, 4, 128), "even", EvenLoad(rows, experts));
    add(Down(config), {.scheme = Scheme::kNone}, "even", EvenLoad(rows, experts));
  }
  return cases;
}

std::vector<KernelCase> AttentionCases(const KernelCaseOptions& options) {
  constexpr int64_t kPromptRows = 512;
  constexpr int64_t kMostPositions = int64_t{1} << 17;  // of all sequences together
  std::vector<KernelCase> cases;
  const auto add = [&](const char* phase, const AttentionCase& c) {
    cases.push_back({.op = "attention",
                     .shape = absl::StrCat(phase, ", context ", c.context, ", ", c.sequences,
                                           c.sequences == 1 ? " sequence" : " sequences",
                                           c.kv_dtype == DType::kI8 ? ", int8" : ""),
                     .tokens = c.sequences * c.rows,
                     .prepare = [c](Backend& backend) { return PrepareAttention(backend, c); }});
  };
  for (const int64_t context : options.contexts) {
    for (const int64_t sequences : {1, 16}) {
      if (sequences * context > kMostPositions) continue;
      add("decode", {.config = options.config,
                     .sequences = sequences,
                     .context = context,
                     .kv_dtype = options.kv_dtype});
    }
    add("prompt", {.config = options.config,
                   .rows = std::min(kPromptRows, context),
                   .context = context,
                   .kv_dtype = options.kv_dtype});
  }
  return cases;
}

std::vector<KernelCase> KernelCases(const KernelCaseOptions& options) {
  std::vector<KernelCase> all;
  for (const auto& make : {&LinearCases, &ExpertCases, &AttentionCases, &RowCases}) {
    for (KernelCase& c : make(options)) all.push_back(std::move(c));
  }
  return all;
}

}  // namespace intermix
