#include "kernels/cuda/cuda_linear.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/cuda/bf16_grouped.h"
#include "kernels/cuda/bf16_rows.h"
#include "kernels/cuda/feed_forward.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gemm_pack.h"
#include "kernels/cuda/weight_parts.h"

namespace intermix::cuda {
namespace {

GemmOutput OutputOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return GemmOutput::kF32;
    case DType::kBF16:
      return GemmOutput::kBF16;
    case DType::kI32:
      return GemmOutput::kI32;
    default:
      Fatal(absl::StrCat("a GEMM cannot write ", std::string(Name(dtype))));
  }
}

}  // namespace

class CudaLinear::Weight final : public PackedWeight {
 public:
  struct Part {
    int64_t begin = 0;  // of the out features
    int64_t n = 0;
    GemmExpert expert;
    bool gated = false;  // gates and ups in turns
    Buffer memory;
  };

  Weight(int64_t n, int64_t k, bool quantized, uint64_t id)
      : PackedWeight(n, k, quantized), id_(id) {}

  int64_t bytes() const override {
    size_t total = bf16.bytes();
    for (const Part& part : parts) total += part.memory.bytes();
    return static_cast<int64_t>(total);
  }
  uint64_t id() const { return id_; }

  std::vector<Part> parts;  // of a quantised weight
  Buffer bf16;              // [N, K] of another

 private:
  uint64_t id_;  // never used again
};

CudaLinear::CudaLinear(const CudaContext& context, PinnedStaging& staging)
    : context_(context),
      staging_(staging),
      workspace_(context.Allocate(GemmWorkspaceBytes(context.gemm_device()))),
      rounded_(context),
      gate_up_(context) {}

Buffer CudaLinear::ToDevice(const void* host, size_t bytes) {
  Buffer memory = context_.Allocate(bytes);
  staging_.Upload(host, memory.data(), bytes);
  return memory;
}

absl::StatusOr<std::unique_ptr<PackedWeight>> CudaLinear::Prepack(
    std::span<const QuantizedWeight> parts) {
  if (absl::Status s = CheckParts(parts); !s.ok()) return s;
  return parts[0].format.scheme == Scheme::kNone ? PrepackUnquantized(parts)
                                                 : PrepackQuantized(parts);
}

absl::StatusOr<std::unique_ptr<PackedWeight>> CudaLinear::PrepackQuantized(
    std::span<const QuantizedWeight> parts) {
  int64_t n = 0;
  for (const QuantizedWeight& part : parts) n += part.n;
  auto weight = std::make_unique<Weight>(n, parts[0].k, true, next_id_++);
  for (size_t i = 0; i < parts.size();) {
    size_t end = i + 1;
    while (end < parts.size() && parts[end].format == parts[i].format) ++end;
    const QuantizedWeight joined = JoinParts(parts.subspan(i, end - i));
    if (absl::Status s = AddPart(joined, /*gated=*/false, *weight); !s.ok()) return s;
    i = end;
  }
  return weight;
}

absl::Status CudaLinear::AddPart(const QuantizedWeight& joined, bool gated, Weight& weight) {
  const absl::StatusOr<GemmPack> pack = PackGemmWeight(joined);
  if (!pack.ok()) return pack.status();
  Buffer memory = ToDevice(pack->bytes.data(), pack->bytes.bytes());
  const GemmExpert expert = pack->At(memory.data());
  const int64_t begin =
      weight.parts.empty() ? 0 : weight.parts.back().begin + weight.parts.back().n;
  weight.parts.push_back({.begin = begin,
                          .n = joined.n,
                          .expert = expert,
                          .gated = gated,
                          .memory = std::move(memory)});
  return absl::OkStatus();
}

// Gate and up of one format as one part whose features come in turns; others as two parts.
absl::StatusOr<std::unique_ptr<PackedWeight>> CudaLinear::PrepackGated(const QuantizedWeight& gate,
                                                                       const QuantizedWeight& up) {
  CHECK_EQ(gate.n, up.n);
  const std::array<QuantizedWeight, 2> both = {gate, up};
  if (gate.format != up.format || gate.format.scheme == Scheme::kNone) return Prepack(both);
  if (absl::Status s = CheckParts(both); !s.ok()) return s;
  std::vector<QuantizedWeight> features;
  for (int64_t i = 0; i < gate.n; ++i) {
    features.push_back(gate.RowSlice(i, i + 1));
    features.push_back(up.RowSlice(i, i + 1));
  }
  auto weight = std::make_unique<Weight>(2 * gate.n, gate.k, true, next_id_++);
  if (gate.n == 0) return weight;
  if (absl::Status s = AddPart(JoinParts(features), /*gated=*/true, *weight); !s.ok()) return s;
  return weight;
}

absl::StatusOr<std::unique_ptr<PackedWeight>> CudaLinear::PrepackUnquantized(
    std::span<const QuantizedWeight> parts) {
  if (cublaslt_ == nullptr) {
    absl::StatusOr<std::unique_ptr<CublasLtGemm>> opened = CublasLtGemm::Open(context_);
    if (!opened.ok()) return opened.status();
    cublaslt_ = *std::move(opened);
  }
  int64_t n = 0;
  for (const QuantizedWeight& part : parts) n += part.n;
  const std::vector<BFloat16> rows = RoundParts(parts);
  auto weight = std::make_unique<Weight>(n, parts[0].k, false, next_id_++);
  weight->bf16 = ToDevice(rows.data(), rows.size() * sizeof(BFloat16));
  return weight;
}

void CudaLinear::Gemm(const Activations& x, const PackedWeight& w, Tensor y) {
  const PackedWeight* const weight = &w;
  GroupedGemm(x, {&weight, 1}, Tensor(), /*offsets_are_old=*/false, y);
}

void CudaLinear::GroupedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                             const Tensor& row_offsets, bool offsets_are_old, Tensor y) {
  CHECK(row_offsets.empty() || row_offsets.rows() == static_cast<int64_t>(weights.size()) + 1);
  for (const PackedWeight* w : weights) {
    CHECK_EQ(x.values.cols(), w->k());
    CHECK_EQ(y.cols(), w->n());
    CHECK_EQ(x.quantized(), w->quantized());
  }
  CHECK_EQ(y.rows(), x.tokens());
  if (x.tokens() == 0) return;
  if (x.quantized()) {
    const Group& group = GroupOf(weights);
    CHECK(std::ranges::none_of(group.launches, &GroupLaunch::gated)) << "of PrepackGated";
    LaunchGroup(group, /*gated=*/false, x, row_offsets, offsets_are_old, OutputOf(y.dtype()), y);
  } else {
    UnquantizedGroupedGemm(x, weights, row_offsets, y);
  }
}

void CudaLinear::UnquantizedGroupedGemm(const Activations& x,
                                        std::span<const PackedWeight* const> weights,
                                        const Tensor& row_offsets, const Tensor& y) {
  if (row_offsets.empty()) {
    return UnquantizedGemm(x, static_cast<const Weight&>(*weights[0]), y);
  }
  // The baseline: few rows in one launch; with more of them the experts go one after the other, and
  // the host must know their rows.
  if (x.tokens() <= kMaxBf16GroupedRows && x.values.cols() % 8 == 0) {
    return Bf16Grouped(
        {.x = Round(x),
         .weights = static_cast<const uint16_t* const*>(GroupOf(weights).tables.data()),
         .row_offsets = row_offsets,
         .y = y},
        context_.stream());
  }
  std::vector<int32_t> offsets(weights.size() + 1);
  staging_.Download(row_offsets.raw(), offsets.data(), offsets.size() * sizeof(int32_t));
  for (size_t e = 0; e < weights.size(); ++e) {
    if (offsets[e] == offsets[e + 1]) continue;
    UnquantizedGemm(x.Rows(offsets[e], offsets[e + 1]), static_cast<const Weight&>(*weights[e]),
                    y.Rows(offsets[e], offsets[e + 1]));
  }
}

// Gated parts end in the GEMM's own epilogue, all others in float32 and a kernel that joins gates
// and ups. Where all are gated and one of them runs on wgmma, which has no such epilogue, so do
// they all; beside parts that are not, they leave wgmma alone.
void CudaLinear::GatedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                           const Tensor& row_offsets, Tensor hidden) {
  for (const PackedWeight* w : weights) {
    CHECK_EQ(x.values.cols(), w->k());
    CHECK_EQ(2 * hidden.cols(), w->n());
    CHECK_EQ(x.quantized(), w->quantized());
  }
  CHECK_EQ(hidden.rows(), x.tokens());
  if (x.tokens() == 0) return;
  const auto gate_up = [&] {
    const int64_t cols = 2 * hidden.cols();
    const size_t bytes = static_cast<size_t>(x.tokens() * cols) * sizeof(float);
    return Tensor(gate_up_.Reserve(bytes), DType::kF32, {x.tokens(), cols}, Device::kCuda);
  };
  if (!x.quantized()) {
    const Tensor y = gate_up();
    UnquantizedGroupedGemm(x, weights, row_offsets, y);
    return SiluMul({.gate_up = y, .out = hidden}, context_.stream());
  }
  const Group& group = GroupOf(weights);
  const bool all_gated = std::ranges::all_of(group.launches, &GroupLaunch::gated);
  const bool wgmma = std::ranges::any_of(group.launches, [&](const GroupLaunch& launch) {
    const GemmPlan plan = SelectGemm(ProblemOf(launch, group, x), context_.gemm_device());
    return kGemmTiles[plan.tile].family == GemmFamily::kWgmma;
  });
  if (!all_gated || wgmma) {
    const Tensor y = gate_up();  // rows of no expert here hold anything: written again below
    LaunchGroup(group, all_gated, x, row_offsets, /*offsets_are_old=*/false, GemmOutput::kF32, y);
    SiluMul({.gate_up = y, .out = hidden, .in_turns = all_gated}, context_.stream());
    if (all_gated) return;
  }
  LaunchGroup(group, /*gated=*/true, x, row_offsets, /*offsets_are_old=*/false,
              GemmOutput::kSiluMul, hidden);
}

const CudaLinear::Group& CudaLinear::GroupOf(std::span<const PackedWeight* const> weights) {
  const auto id = [](const PackedWeight* w) { return static_cast<const Weight*>(w)->id(); };
  std::deque<Group>& known = groups_[id(weights[0])];
  for (const Group& group : known) {
    if (std::ranges::equal(weights, group.ids, {}, id)) return group;
  }
  return known.emplace_back(weights[0]->quantized() ? MakeGroup(weights)
                                                    : MakeUnquantizedGroup(weights));
}

// Experts need not be cut alike: each launch takes those that have its part and passes over others.
CudaLinear::Group CudaLinear::MakeGroup(std::span<const PackedWeight* const> weights) {
  Group group;
  std::vector<GemmExpert> tables;
  const auto part_of = [](const Weight::Part& part) {
    return GroupLaunch{
        .begin = part.begin, .n = part.n, .mode = part.expert.mode, .gated = part.gated};
  };
  for (const PackedWeight* w : weights) {
    group.ids.push_back(static_cast<const Weight*>(w)->id());
    for (const Weight::Part& part : static_cast<const Weight*>(w)->parts) {
      const GroupLaunch launch = part_of(part);
      const bool known = std::ranges::any_of(
          group.launches, [&](const GroupLaunch& other) { return other.Runs(launch); });
      if (!known) group.launches.push_back(launch);
    }
  }
  for (GroupLaunch& launch : group.launches) {
    launch.table_at = tables.size() * sizeof(GemmExpert);
    const size_t first = tables.size();
    const GemmMode another =
        launch.mode == GemmMode::kFolded4 ? GemmMode::kWide4 : GemmMode::kFolded4;
    for (const PackedWeight* w : weights) {
      GemmExpert entry = {.mode = another};
      for (const Weight::Part& part : static_cast<const Weight*>(w)->parts) {
        if (launch.Runs(part_of(part))) entry = part.expert;
      }
      tables.push_back(entry);
    }
    launch.first = tables[first];
  }
  group.tables = ToDevice(tables.data(), tables.size() * sizeof(GemmExpert));
  return group;
}

GemmProblem CudaLinear::ProblemOf(const GroupLaunch& launch, const Group& group,
                                  const Activations& x) const {
  return {.mode = launch.mode,
          .n = static_cast<int32_t>(launch.n),
          .k = static_cast<int32_t>(x.values.cols()),
          .experts = static_cast<int32_t>(group.ids.size()),
          .rows = static_cast<int32_t>(x.tokens())};
}

void CudaLinear::LaunchGroup(const Group& group, bool gated, const Activations& x,
                             const Tensor& row_offsets, bool offsets_are_old, GemmOutput output,
                             const Tensor& y) {
  for (const GroupLaunch& launch : group.launches) {
    if (launch.gated != gated) continue;
    const bool hidden = output == GemmOutput::kSiluMul;
    const char* table = static_cast<const char*>(group.tables.data()) + launch.table_at;
    const Tensor columns = hidden ? y : y.Cols(launch.begin, launch.begin + launch.n);
    const GemmProblem problem = ProblemOf(launch, group, x);
    const GemmArgs args = {
        .x = x.values.data<int8_t>(),
        .x_stride = x.values.stride(0),
        .x_scales = x.scales.data<float>(),
        .experts = reinterpret_cast<const GemmExpert*>(table),
        .only = launch.first,
        .row_offsets = row_offsets.empty() ? nullptr : row_offsets.data<int32_t>(),
        .offsets_are_old = offsets_are_old,
        .num_experts = problem.experts,
        .rows = problem.rows,
        .n = problem.n,
        .k = problem.k,
        .y = columns.raw(),
        .y_stride = y.stride(0),
        .output = output,
        .workspace = static_cast<int32_t*>(workspace_.data())};
    GemmDevice device = context_.gemm_device();
    if (hidden) device.wgmma = false;
    LaunchGemm(args, launch.mode, SelectGemm(problem, device), context_.stream());
  }
}

CudaLinear::Group CudaLinear::MakeUnquantizedGroup(std::span<const PackedWeight* const> weights) {
  Group group;
  std::vector<const void*> table;
  for (const PackedWeight* w : weights) {
    group.ids.push_back(static_cast<const Weight*>(w)->id());
    table.push_back(static_cast<const Weight*>(w)->bf16.data());
  }
  group.tables = ToDevice(table.data(), table.size() * sizeof(void*));
  return group;
}

Tensor CudaLinear::Round(const Activations& x) {
  const size_t bytes = static_cast<size_t>(x.values.num_elements()) * sizeof(BFloat16);
  const Tensor rounded(rounded_.Reserve(bytes), DType::kBF16, {x.tokens(), x.values.cols()},
                       Device::kCuda);
  RoundToBf16({.x = x.values, .out = rounded}, context_.stream());
  return rounded;
}

void CudaLinear::UnquantizedGemm(const Activations& x, const Weight& w, const Tensor& y) {
  cublaslt_->Multiply(Round(x), Tensor(w.bf16.data(), DType::kBF16, {w.n(), w.k()}, Device::kCuda),
                      y);
}

}  // namespace intermix::cuda
