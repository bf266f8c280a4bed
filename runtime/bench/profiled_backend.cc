#include "runtime/bench/profiled_backend.h"

#include <string_view>
#include <vector>

namespace intermix {
namespace {

std::vector<int32_t> HostInts(Backend& backend, const Tensor& ints) {
  std::vector<int32_t> host(static_cast<size_t>(ints.num_elements()));
  if (!host.empty()) backend.CopyToHost(ints, host.data());
  return host;
}

}  // namespace

Work ProfiledBackend::total_work() const {
  Work total;
  for (const auto& [name, op] : ops_) total += op.work;
  return total;
}

OpProfile& ProfiledBackend::Time(const char* name, const std::function<void()>& op) {
  inner_.Synchronize();
  const double start = clock_();
  op();
  inner_.Synchronize();
  const double seconds = clock_() - start;
  auto at = ops_.find(std::string_view(name));
  if (at == ops_.end()) at = ops_.emplace(name, OpProfile()).first;
  OpProfile& profile = at->second;
  profile.seconds += seconds;
  ++profile.calls;
  return profile;
}

void ProfiledBackend::CopyToDevice(const void* host, Tensor tensor) {
  Time("copy to device", [&] { inner_.CopyToDevice(host, tensor); });
}

void ProfiledBackend::CopyToHost(const Tensor& tensor, void* host) {
  Time("copy to host", [&] { inner_.CopyToHost(tensor, host); });
}

void ProfiledBackend::StartCopyToHost(const Tensor& tensor, void* host) {
  Time("copy to host", [&] { inner_.StartCopyToHost(tensor, host); });
}

void ProfiledBackend::Gemm(const Activations& x, const PackedWeight& w, Tensor y) {
  Time("linear", [&] { inner_.Gemm(x, w, y); }).work += LinearWork(w, x.tokens());
}

void ProfiledBackend::GroupedGemm(const Activations& x,
                                  std::span<const PackedWeight* const> weights,
                                  const Tensor& row_offsets, Tensor y) {
  Time("expert linear", [&] { inner_.GroupedGemm(x, weights, row_offsets, y); }).work +=
      GroupedLinearWork(weights, HostInts(inner_, row_offsets));
}

void ProfiledBackend::GatedGemm(const Activations& x, std::span<const PackedWeight* const> weights,
                                const Tensor& row_offsets, Tensor hidden) {
  OpProfile& op = Time(row_offsets.empty() ? "gated linear" : "gated expert linear",
                       [&] { inner_.GatedGemm(x, weights, row_offsets, hidden); });
  op.work += row_offsets.empty() ? LinearWork(*weights[0], x.tokens())
                                 : GroupedLinearWork(weights, HostInts(inner_, row_offsets));
}

void ProfiledBackend::RowAbsMax(const Tensor& x, Tensor amax) {
  Time("row maximum", [&] { inner_.RowAbsMax(x, amax); });
}

void ProfiledBackend::QuantizeRows(const Tensor& x, const Tensor& amax, const Activations& out) {
  Time("quantise", [&] { inner_.QuantizeRows(x, amax, out); });
}

void ProfiledBackend::RmsNorm(const Tensor& x, const Norm& norm, const NormedRows& out) {
  Time("norm", [&] { inner_.RmsNorm(x, norm, out); });
}

void ProfiledBackend::AddRmsNorm(const Delta& delta, Tensor residual, const Norm& norm,
                                 const NormedRows& out) {
  Time(delta.weights.empty() ? "add and norm" : "combine and norm",
       [&] { inner_.AddRmsNorm(delta, residual, norm, out); });
}

void ProfiledBackend::EmbedRows(const Tensor& ids, const Tensor& table, Tensor out) {
  Time("embed", [&] { inner_.EmbedRows(ids, table, out); });
}

void ProfiledBackend::Zero(Tensor tensor) {
  Time("zero", [&] { inner_.Zero(tensor); });
}

void ProfiledBackend::GatherRows(const Tensor& src, const Tensor& index, Tensor dst) {
  Time("gather", [&] { inner_.GatherRows(src, index, dst); });
}

void ProfiledBackend::MergeColumns(const Tensor& shards, Tensor out) {
  Time("merge columns", [&] { inner_.MergeColumns(shards, out); });
}

void ProfiledBackend::RopeAndStoreKv(Tensor q, Tensor k, const Tensor& v, const Tensor& rope,
                                     const PagedRows& rows, const KvLayer& cache) {
  Time("rope", [&] { inner_.RopeAndStoreKv(q, k, v, rope, rows, cache); });
}

void ProfiledBackend::PagedAttention(const Tensor& q, const PagedRows& rows, const KvLayer& cache,
                                     std::span<const int32_t> kv_head_of, float scale, Tensor out) {
  const AttentionShape shape = AttentionShapeOf(cache, static_cast<int64_t>(kv_head_of.size()));
  Time("attention", [&] { inner_.PagedAttention(q, rows, cache, kv_head_of, scale, out); }).work +=
      AttentionWork(shape, HostInts(inner_, rows.positions), HostInts(inner_, rows.query_starts));
}

void ProfiledBackend::Route(const Tensor& x, const Tensor& gate, Tensor experts, Tensor weights) {
  Time("route", [&] { inner_.Route(x, gate, experts, weights); });
}

void ProfiledBackend::SortByExpert(const Tensor& experts, int32_t first_expert,
                                   const Activations& tokens, const ExpertOrder& out) {
  Time("sort", [&] { inner_.SortByExpert(experts, first_expert, tokens, out); });
}

void ProfiledBackend::AddRowCounts(const Tensor& row_offsets, Tensor totals) {
  Time("count rows", [&] { inner_.AddRowCounts(row_offsets, totals); });
}

void ProfiledBackend::TopK(const Tensor& x, Tensor values, Tensor columns) {
  Time("top k", [&] { inner_.TopK(x, values, columns); });
}

}  // namespace intermix
