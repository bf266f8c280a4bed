// Quantised GEMM in plain C++, for any processor: the packed layouts of quant_gemm.h, read in the
// plainest way.
#include <cmath>
#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/cpu/quant_gemm.h"

namespace intermix::cpu {
namespace {

void PackRows(const PackRowsArgs& a) {
  const int64_t padded_group = 4 * a.group_quads;
  for (int r = 0; r < a.rows; ++r) {
    const int8_t* x = a.x + r * a.x_stride;
    int32_t* sums = a.sums + r * (a.num_groups + 1);
    int32_t total = 0;
    for (int64_t j = 0; j < a.num_groups; ++j) {
      int8_t* out = a.tile + (j * a.group_quads * a.rows + r) * 4;
      int32_t sum = 0;
      for (int64_t i = 0; i < padded_group; ++i) {
        const int8_t value = i < a.group_size ? x[j * a.group_size + i] : int8_t{0};
        out[i / 4 * a.rows * 4 + i % 4] = value;
        sum += value;
      }
      sums[j] = sum;
      total += sum;
    }
    sums[a.num_groups] = total;
  }
}

// Wrapping int32 arithmetic, as vector instructions do it.
int32_t WrappingAdd(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}
int32_t WrappingMul(int32_t a, int32_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) * static_cast<uint32_t>(b));
}

// sums[n] += dot of one quad of 16 out features with 4 activations.  x [4], w [16][4] unsigned
void AddQuad(const int8_t* x, const uint8_t* w, int shift, int mask, int32_t* sums) {
  for (int n = 0; n < kBlockRows; ++n) {
    for (int i = 0; i < 4; ++i) sums[n] += x[i] * ((w[4 * n + i] >> shift) & mask);
  }
}

// sums[n] = sum over one group of x * code.  x: one row of a tile of `rows`
void GroupSums(const QuantPart& part, const uint8_t* codes, const int8_t* x, int rows,
               int32_t x_sum, int32_t* sums) {
  for (int n = 0; n < kBlockRows; ++n) sums[n] = -part.bias() * x_sum;
  const int64_t step = 4 * rows;
  for (int64_t q = 0; q < part.group_quads; ++q) {
    if (part.bits == 8) {
      AddQuad(x + q * step, codes + q * 64, 0, 0xFF, sums);
    } else {
      AddQuad(x + q * step, codes + q / 2 * 64, q % 2 == 0 ? 0 : 4, 0xF, sums);
    }
  }
}

void Store(const QuantOutput& out, int64_t row, int64_t col, float value) {
  if (out.type == OutputType::kBFloat16) {
    static_cast<BFloat16*>(out.y)[row * out.stride + col] = BFloat16(value);
  } else {
    static_cast<float*>(out.y)[row * out.stride + col] = value;
  }
}

// One row, one block.
void RunRow(const QuantPart& part, const QuantRows& rows, const int8_t* x, int tile_rows,
            int64_t row, int64_t block, const QuantOutput& out) {
  int32_t acc[kBlockRows] = {};
  float sum[kBlockRows] = {};
  const int64_t group_bytes = part.group_quads * (part.bits == 4 ? 32 : 64);
  for (int64_t j = 0; j < part.num_groups; ++j) {
    int32_t group[kBlockRows];
    GroupSums(part, part.codes + block * part.block_bytes() + j * group_bytes,
              x + j * part.group_quads * 4 * tile_rows, tile_rows,
              rows.sums[row * (part.num_groups + 1) + j], group);
    const int64_t scales = (block * part.num_groups + j) * kBlockRows;
    for (int n = 0; n < kBlockRows; ++n) {
      if (part.float_scales != nullptr) {
        sum[n] = std::fma(static_cast<float>(group[n]), part.float_scales[scales + n], sum[n]);
      } else {
        acc[n] = WrappingAdd(acc[n], WrappingMul(group[n], part.int_scales[scales + n]));
      }
    }
  }
  for (int n = 0; n < kBlockRows && block * kBlockRows + n < part.n; ++n) {
    const int64_t col = block * kBlockRows + n;
    if (out.type == OutputType::kInt32) {
      static_cast<int32_t*>(out.y)[row * out.stride + col] = acc[n];
    } else if (part.float_scales != nullptr) {
      Store(out, row, col, sum[n] * rows.scales[row]);
    } else {
      Store(out, row, col,
            (static_cast<float>(acc[n]) * part.channel_scales[col]) * rows.scales[row]);
    }
  }
}

void RunTile(const QuantPart& part, const QuantRows& rows, int64_t tile, int64_t block_begin,
             int64_t block_end, const QuantOutput& out) {
  const int64_t begin = rows.TileBegin(tile);
  const int tile_rows = static_cast<int>(rows.TileBegin(tile + 1) - begin);
  const int8_t* x = rows.tiles + begin * part.quads() * 4;
  for (int64_t block = block_begin; block < block_end; ++block) {
    for (int r = 0; r < tile_rows; ++r) {
      RunRow(part, rows, x + 4 * r, tile_rows, begin + r, block, out);
    }
  }
}

void RunPanel(const QuantPart& part, const QuantRows& rows, int64_t tile_begin, int64_t tile_end,
              int64_t block_begin, int64_t block_end, const PanelScratch&, const QuantOutput& out) {
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    RunTile(part, rows, tile, block_begin, block_end, out);
  }
}

}  // namespace

QuantGemmKernels ScalarQuantGemmKernels() {
  return {.stream_rows = 6,
          .panel_rows = 6,
          .streamed_rows = 24,
          .pack_rows = &PackRows,
          .run_tile = &RunTile,
          .run_panel = &RunPanel};
}

}  // namespace intermix::cpu
