#include "kernels/cpu/linear.h"

#include <algorithm>
#include <functional>

#include "kernels/core/int_math.h"

namespace intermix::cpu {
namespace {

// Below this many multiplications waking other threads costs more than it brings.
constexpr int64_t kSerialWork = int64_t{1} << 19;
// Weights that one item of a small GEMM streams: long enough to hide the hand-out, and longer where
// each thread gets many, because memory is at its best in long runs. Where several tiles take them
// in turns they are to stay in the second cache.
constexpr int64_t kItemBytes = int64_t{1} << 16;
constexpr int64_t kCachedItemBytes = int64_t{1} << 18;
constexpr int64_t kLongItemBytes = int64_t{1} << 20;
constexpr int64_t kItemsPerThread = 16;
constexpr int64_t kUnquantizedRows = 64;
constexpr int64_t kPanelScaleBytes = int64_t{kPanelBlocks} * kPanelGroups * kBlockRows * 2 * 2;
constexpr int64_t kPanelSumsBytes = int64_t{kPanelRows} * kPanelBlocks * kBlockRows * 4;

void Grow(Buffer& buffer, int64_t bytes) {
  if (static_cast<int64_t>(buffer.bytes()) < bytes) {
    buffer = Buffer::Host(static_cast<size_t>(bytes));
  }
}

OutputType OutputTypeOf(const Tensor& y) {
  switch (y.dtype()) {
    case DType::kF32:
      return OutputType::kFloat;
    case DType::kBF16:
      return OutputType::kBFloat16;
    case DType::kI32:
      return OutputType::kInt32;
    default:
      Fatal("a GEMM cannot write " + y.ToString());
  }
}

// The element [row, col] of y.
void* At(const Tensor& y, int64_t row, int64_t col) {
  return static_cast<char*>(y.raw()) +
         (row * y.stride(0) + col) * static_cast<int64_t>(ByteSize(y.dtype()));
}

// The entry that item `index` belongs to, among entries sorted by their first item.
template <typename T>
const T& EntryOf(const std::vector<T>& entries, int64_t index, int64_t T::*first) {
  const auto after =
      std::upper_bound(entries.begin(), entries.end(), index,
                       [first](int64_t i, const T& entry) { return i < entry.*first; });
  return *(after - 1);
}

const CpuPackedWeight& Packed(const PackedWeight* weight) {
  return static_cast<const CpuPackedWeight&>(*weight);
}

}  // namespace

void Linear::Begin(const Activations& x, std::span<const PackedWeight* const> weights,
                   std::span<const int32_t> row_offsets, int64_t out_features) {
  CHECK_EQ(row_offsets.size(), weights.size() + 1);
  CHECK_EQ(row_offsets.front(), 0);
  CHECK_EQ(row_offsets.back(), x.tokens());
  group_sizes_.clear();
  for (const PackedWeight* weight : weights) {
    CHECK_EQ(x.values.cols(), weight->k());
    CHECK_EQ(out_features, weight->n());
    CHECK_EQ(x.quantized(), weight->quantized());
    for (const CpuPackedWeight::Part& part : Packed(weight).parts()) {
      if (std::find(group_sizes_.begin(), group_sizes_.end(), part.group_size) ==
          group_sizes_.end()) {
        group_sizes_.push_back(part.group_size);
      }
    }
  }
}

void Linear::Run(const Activations& x, std::span<const PackedWeight* const> weights,
                 std::span<const int32_t> row_offsets, const Tensor& y) {
  CHECK_EQ(y.rows(), x.tokens());
  Begin(x, weights, row_offsets, y.cols());
  if (x.tokens() == 0) return;
  if (!x.quantized()) {
    RunUnquantized(x, weights, row_offsets, y);
    return;
  }
  // Stacked parts nearly always share a group size, so the activations are packed once.
  for (const int64_t group_size : group_sizes_) {
    RunQuantized(x, weights, row_offsets, group_size, y, /*gated=*/false);
  }
}

void Linear::RunGated(const Activations& x, std::span<const PackedWeight* const> weights,
                      std::span<const int32_t> row_offsets, const Tensor& hidden) {
  const int64_t features = hidden.cols();
  CHECK_EQ(hidden.rows(), x.tokens());
  Begin(x, weights, row_offsets, 2 * features);
  if (x.tokens() == 0) return;
  if (x.quantized() && group_sizes_.size() == 1) {
    RunQuantized(x, weights, row_offsets, group_sizes_.front(), hidden, /*gated=*/true);
    return;
  }
  Grow(gated_, x.tokens() * 2 * features * int64_t{sizeof(float)});
  const Tensor gate_up = gated_.View(DType::kF32, {x.tokens(), 2 * features});
  Run(x, weights, row_offsets, gate_up);
  const auto rows = [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      const float* gate = gate_up.row<float>(m);
      kernels_.rows.silu_mul(gate, gate + features, features, &hidden.row<BFloat16>(m)->bits);
    }
  };
  pool_.ParallelFor(x.tokens(), 1, std::ref(rows));
}

int64_t Linear::Segment::item_outputs() const {
  const int64_t item_rows = std::min(rows.rows, int64_t{kPanelRows});
  return item_rows * std::min(num_blocks(), blocks_per_chunk) * kBlockRows;
}

void Linear::PackActivations(const Activations& x, std::span<const int32_t> row_offsets,
                             int64_t group_size) {
  const int64_t k = x.values.cols();
  const int64_t num_groups = k / group_size;
  const int64_t group_quads = CeilDiv(group_size, 8) * 2;
  const int64_t padded_k = num_groups * group_quads * 4;
  Grow(tiles_, x.tokens() * padded_k + kTileSlack);
  Grow(sums_, x.tokens() * (num_groups + 1) * 4);
  jobs_.clear();
  int64_t num_tiles = 0;
  for (size_t e = 0; e + 1 < row_offsets.size(); ++e) {
    const int64_t begin = row_offsets[e];
    const int64_t rows = row_offsets[e + 1] - begin;
    CHECK_GE(rows, 0);
    const int64_t tile_rows = Streamed(rows) ? kernels_.gemm.stream_rows : kernels_.gemm.panel_rows;
    PackJob job{.row_begin = begin, .first_tile = num_tiles};
    job.rows = {.tiles = static_cast<const int8_t*>(tiles_.data()) + begin * padded_k,
                .sums = static_cast<const int32_t*>(sums_.data()) + begin * (num_groups + 1),
                .scales = x.scales.data<float>() + begin,
                .rows = rows,
                .num_tiles = CeilDiv(rows, tile_rows)};
    num_tiles += job.rows.num_tiles;
    jobs_.push_back(job);
  }
  const auto pack = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const PackJob& job = EntryOf(jobs_, i, &PackJob::first_tile);
      const int64_t first = job.row_begin + job.rows.TileBegin(i - job.first_tile);
      const int64_t last = job.row_begin + job.rows.TileBegin(i - job.first_tile + 1);
      kernels_.gemm.pack_rows(
          {.x = x.values.row<int8_t>(first),
           .x_stride = x.values.stride(0),
           .rows = static_cast<int>(last - first),
           .group_size = group_size,
           .num_groups = num_groups,
           .group_quads = group_quads,
           .tile = static_cast<int8_t*>(tiles_.data()) + first * padded_k,
           .sums = static_cast<int32_t*>(sums_.data()) + first * (num_groups + 1)});
    }
  };
  const int64_t grain = std::max<int64_t>(1, kItemBytes / (kernels_.gemm.panel_rows * padded_k));
  pool_.ParallelFor(num_tiles, grain, std::ref(pack));
}

void Linear::AddSegment(Segment segment) {
  segment.first_item =
      segments_.empty() ? 0 : segments_.back().first_item + segments_.back().num_items();
  segments_.push_back(segment);
}

int64_t Linear::ItemBytes(std::span<const PackedWeight* const> weights) const {
  int64_t bytes = 0;
  for (size_t e = 0; e < weights.size(); ++e) {
    if (jobs_[e].rows.rows > 0) bytes += Packed(weights[e]).bytes();
  }
  return std::clamp(bytes / (kItemsPerThread * pool_.num_threads()), kItemBytes, kLongItemBytes);
}

void Linear::RunQuantized(const Activations& x, std::span<const PackedWeight* const> weights,
                          std::span<const int32_t> row_offsets, int64_t group_size, const Tensor& y,
                          bool gated) {
  PackActivations(x, row_offsets, group_size);
  const int64_t item_bytes = ItemBytes(weights);
  segments_.clear();
  int64_t work = 0;
  int64_t panel_quads = kPanelQuads;
  gated_floats_ = 0;
  for (size_t e = 0; e < weights.size(); ++e) {
    const QuantRows& rows = jobs_[e].rows;
    if (rows.rows == 0) continue;
    for (const CpuPackedWeight::Part& part : Packed(weights[e]).parts()) {
      if (part.group_size != group_size || part.n == 0) continue;
      CHECK(y.dtype() != DType::kI32 || part.quant.int_scales != nullptr)
          << "only an integer scheme has int32 accumulators";
      Segment segment{.part = &part, .rows = rows};
      if (gated) segment.up = &Packed(weights[e]).parts()[1];
      segment.out = {
          .y = At(y, row_offsets[e], part.begin), .stride = y.stride(0), .type = OutputTypeOf(y)};
      if (Streamed(rows.rows)) {
        const int64_t bytes =
            rows.num_tiles == 1 ? item_bytes : std::min(item_bytes, kCachedItemBytes);
        segment.blocks_per_chunk = std::max<int64_t>(1, bytes / part.quant.block_bytes());
      } else {
        segment.row_chunks = CeilDiv(rows.num_tiles, kPanelRows / kernels_.gemm.panel_rows);
        segment.blocks_per_chunk = kPanelBlocks;
        if (part.quant.num_groups > 1) {
          panel_quads = std::max(panel_quads, part.quant.group_quads);
        }
      }
      segment.block_chunks = CeilDiv(segment.num_blocks(), segment.blocks_per_chunk);
      AddSegment(segment);
      work += (gated ? 2 : 1) * rows.rows * part.n * x.values.cols();
      if (!gated) continue;
      gated_floats_ = std::max(gated_floats_, 2 * segment.item_outputs());
      break;  // the second part is the up weight
    }
  }
  Grow(gated_, pool_.num_threads() * gated_floats_ * int64_t{sizeof(float)});
  panel_weight_bytes_ = panel_quads * kPanelBlocks * 64;
  Grow(panels_, pool_.num_threads() * PanelBytes());
  RunSegments(work);
}

void Linear::RunUnquantized(const Activations& x, std::span<const PackedWeight* const> weights,
                            std::span<const int32_t> row_offsets, const Tensor& y) {
  CHECK(y.dtype() != DType::kI32) << "only an integer scheme has int32 accumulators";
  segments_.clear();
  int64_t work = 0;
  for (size_t e = 0; e < weights.size(); ++e) {
    const int64_t begin = row_offsets[e];
    const int64_t rows = row_offsets[e + 1] - begin;
    if (rows == 0) continue;
    for (const CpuPackedWeight::Part& part : Packed(weights[e]).parts()) {
      if (part.n == 0) continue;
      Segment segment{.part = &part, .x = x.values.Rows(begin, begin + rows)};
      segment.out = {.y = At(y, begin, part.begin), .stride = y.stride(0), .type = OutputTypeOf(y)};
      segment.row_chunks = CeilDiv(rows, kUnquantizedRows);
      segment.block_chunks = segment.num_blocks();
      AddSegment(segment);
      work += 4 * rows * part.n * x.values.cols();
    }
  }
  RunSegments(work);
}

void Linear::RunSegments(int64_t work) {
  if (segments_.empty()) return;
  const int64_t items = segments_.back().first_item + segments_.back().num_items();
  const auto run = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const Segment& segment = EntryOf(segments_, i, &Segment::first_item);
      if (segment.part->group_size == 0) {
        RunUnquantizedItem(segment, i - segment.first_item);
      } else {
        RunQuantizedItem(segment, i - segment.first_item, worker);
      }
    }
  };
  pool_.ParallelFor(items, work < kSerialWork ? items : 1, std::ref(run));
}

void Linear::RunQuantizedItem(const Segment& segment, int64_t item, int worker) {
  const int64_t block_begin = item % segment.block_chunks * segment.blocks_per_chunk;
  const int64_t chunk = item / segment.block_chunks;  // of the rows
  const ItemRange range = {
      .tile_begin = chunk * segment.rows.num_tiles / segment.row_chunks,
      .tile_end = (chunk + 1) * segment.rows.num_tiles / segment.row_chunks,
      .block_begin = block_begin,
      .block_end = std::min(block_begin + segment.blocks_per_chunk, segment.num_blocks())};
  if (segment.up == nullptr) {
    RunPart(segment.part->quant, segment.rows, range, worker, segment.out);
  } else {
    RunGatedItem(segment, range, worker);
  }
}

void Linear::RunPart(const QuantPart& part, const QuantRows& rows, const ItemRange& range,
                     int worker, const QuantOutput& out) {
  if (!Streamed(rows.rows)) {
    kernels_.gemm.run_panel(part, rows, range.tile_begin, range.tile_end, range.block_begin,
                            range.block_end, ScratchOf(worker), out);
    return;
  }
  // The item's weights stay in the cache from one tile to the next.
  for (int64_t tile = range.tile_begin; tile < range.tile_end; ++tile) {
    kernels_.gemm.run_tile(part, rows, tile, range.block_begin, range.block_end, out);
  }
}

// Gate and up side by side in the worker's memory, then SiLU * up to where it belongs.
void Linear::RunGatedItem(const Segment& segment, const ItemRange& range, int worker) {
  const int64_t first_col = range.block_begin * kBlockRows;
  const int64_t cols = std::min(range.block_end * kBlockRows, segment.part->n) - first_col;
  const int64_t first_row = segment.rows.TileBegin(range.tile_begin);
  const int64_t end_row = segment.rows.TileBegin(range.tile_end);
  const int64_t stride = 2 * (range.block_end - range.block_begin) * kBlockRows;
  float* const gate = static_cast<float*>(gated_.data()) + worker * gated_floats_;
  float* const up = gate + stride / 2;
  // As if all rows and out features were there.
  const auto output = [&](float* first) {
    return QuantOutput{.y = first - (first_row * stride + first_col), .stride = stride};
  };
  RunPart(segment.part->quant, segment.rows, range, worker, output(gate));
  RunPart(segment.up->quant, segment.rows, range, worker, output(up));
  auto* hidden = static_cast<uint16_t*>(segment.out.y);
  for (int64_t row = first_row; row < end_row; ++row) {
    const int64_t at = (row - first_row) * stride;
    kernels_.rows.silu_mul(gate + at, up + at, cols, hidden + row * segment.out.stride + first_col);
  }
}

void Linear::RunUnquantizedItem(const Segment& segment, int64_t item) {
  const Tensor& w = segment.part->rows;
  const int64_t col_begin = item % segment.block_chunks * kBlockRows;
  const int64_t row_begin = item / segment.block_chunks * kUnquantizedRows;
  const bool bf16_out = segment.out.type == OutputType::kBFloat16;
  const int64_t y_offset = (row_begin * segment.out.stride + col_begin) * (bf16_out ? 2 : 4);
  const FloatTile tile{.x = segment.x.row<float>(row_begin),
                       .x_stride = segment.x.stride(0),
                       .rows = std::min(kUnquantizedRows, segment.x.rows() - row_begin),
                       .w = w.Rows(col_begin, w.rows()).raw(),
                       .w_stride = w.stride(0),
                       .cols = std::min<int64_t>(kBlockRows, w.rows() - col_begin),
                       .k = w.cols(),
                       .y = static_cast<char*>(segment.out.y) + y_offset,
                       .y_stride = segment.out.stride};
  if (w.dtype() == DType::kBF16) {
    kernels_.rows.dot_bf16(tile, bf16_out);
  } else {
    kernels_.rows.dot_f32(tile, bf16_out);
  }
}

int64_t Linear::PanelBytes() const {
  return panel_weight_bytes_ + kPanelScaleBytes + kPanelSumsBytes;
}

PanelScratch Linear::ScratchOf(int worker) const {
  auto* base = static_cast<uint8_t*>(panels_.data()) + worker * PanelBytes();
  auto* scales = base + panel_weight_bytes_;
  return {.weights = base,
          .scales = reinterpret_cast<int16_t*>(scales),
          .sums = reinterpret_cast<int32_t*>(scales + kPanelScaleBytes)};
}

}  // namespace intermix::cpu
