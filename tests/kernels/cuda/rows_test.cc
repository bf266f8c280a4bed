// The kernels of rows.cu, quantize_rows.cu, norm.cu and top_k.cu equal ReferenceBackend bit for
// bit, in every thread order: ragged widths, aligned and unaligned column slices, no rows, rows
// with NaN and infinities. Outputs are slices of wider tensors whose other columns must stay as
// they were.
#include "kernels/cuda/rows.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cuda/norm.h"
#include "kernels/cuda/quantize_rows.h"
#include "kernels/cuda/top_k.h"
#include "kernels/operands.h"
#include "tests/kernels/cuda/cuda_ops_test.h"

namespace intermix {
namespace {

// Widths that take the 16-byte path and others, at offsets that allow it and others.
struct Slice {
  int64_t width;
  int64_t offset;
};
const std::vector<Slice> kSlices = {{1, 0}, {17, 0}, {64, 16}, {64, 3}, {100, 4}, {272, 0}};
const std::vector<int64_t> kTokens = {0, 1, 17};

class CudaRowsTest : public CudaOpsTest {};
INSTANTIATE_TEST_SUITE_P(, CudaRowsTest, ::testing::ValuesIn(cuda::AllKernelRuns()), RunName);

// Calls check(slice, tokens, columns) for every shape; columns(t) is the slice of a tensor that is
// 16 columns wider.
template <typename Check>
void ForEachSlice(const Check& check) {
  for (const Slice& slice : kSlices) {
    for (const int64_t tokens : kTokens) {
      SCOPED_TRACE(std::to_string(tokens) + " rows of " + std::to_string(slice.width) + " at " +
                   std::to_string(slice.offset));
      check(slice, tokens, [&](const Tensor& wide) {
        return wide.Cols(slice.offset, slice.offset + slice.width);
      });
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST_P(CudaRowsTest, RowAbsMaxAndQuantizeRows) {
  ForEachSlice([&](const Slice& slice, int64_t tokens, const auto& columns) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const OwnedTensor x = HostileRows(dtype, tokens, slice.width + 16, 1);
      const OwnedTensor amax = OwnedTensor::Host(DType::kF32, {tokens});
      const OwnedTensor codes = OwnedTensor::Host(DType::kI8, {tokens, slice.width + 16});
      const OwnedTensor scales = OwnedTensor::Host(DType::kF32, {tokens});
      const OwnedTensor widened = RandomTensor(DType::kF32, {tokens, slice.width + 16}, 2);
      const DeviceTensor d_x(x), d_amax(amax), d_codes(codes), d_scales(scales), d_widened(widened);

      reference().RowAbsMax(columns(x.view), amax.view);
      cuda::RowAbsMax({.x = columns(d_x.view), .amax = d_amax.view}, nullptr);
      ExpectSame(d_amax, amax);

      reference().QuantizeRows(columns(x.view), amax.view,
                               {.values = columns(codes.view), .scales = scales.view});
      cuda::QuantizeRows({.x = columns(d_x.view),
                          .amax = d_amax.view,
                          .out = {.values = columns(d_codes.view), .scales = d_scales.view}},
                         nullptr);
      ExpectSame(d_codes, codes);
      ExpectSame(d_scales, scales);

      const DeviceTensor d_own(RandomTensor(DType::kF32, {tokens}, 3));
      const DeviceTensor d_own_codes(OwnedTensor::Host(DType::kI8, {tokens, slice.width + 16}));
      cuda::QuantizeRows({.x = columns(d_x.view),
                          .amax = Tensor(),
                          .out = {.values = columns(d_own_codes.view), .scales = d_own.view}},
                         nullptr);
      ExpectSame(d_own_codes, codes);
      ExpectSame(d_own, scales);

      reference().QuantizeRows(columns(x.view), Tensor(),
                               {.values = columns(widened.view), .scales = {}});
      cuda::QuantizeRows({.x = columns(d_x.view),
                          .amax = Tensor(),
                          .out = {.values = columns(d_widened.view), .scales = {}}},
                         nullptr);
      ExpectSame(d_widened, widened);
    }
  });
}

// What a norm reads and writes, twice: on the host and on the device.
struct NormCase {
  NormCase(int64_t tokens, int64_t width, int64_t room, int64_t top_k)
      : residual(HostileRows(DType::kF32, tokens, room, 3)),
        weight(RandomTensor(DType::kF32, {width}, 4)),
        normed(RandomTensor(DType::kF32, {tokens, room}, 5)),
        copy(RandomTensor(DType::kF32, {tokens, room}, 6)),
        codes(OwnedTensor::Host(DType::kI8, {tokens, room})),
        scales(OwnedTensor::Host(DType::kF32, {tokens})),
        rows(HostileRows(DType::kBF16, tokens * std::max<int64_t>(top_k, 1), room, 7)),
        row_of(RandomInts({tokens, top_k}, 0,
                          static_cast<int32_t>(std::max<int64_t>(tokens * top_k, 1)) - 1, 8)),
        weights(RandomTensor(DType::kF32, {tokens, top_k}, 9)) {}

  OwnedTensor residual, weight, normed, copy, codes, scales, rows, row_of, weights;
  DeviceTensor d_residual{residual}, d_weight{weight}, d_normed{normed}, d_copy{copy},
      d_codes{codes}, d_scales{scales}, d_rows{rows}, d_row_of{row_of}, d_weights{weights};
};

enum class Form { kInt8, kInPlace, kCopied };

// Runs one norm on both; columns(t) is the slice of a tensor of NormCase that has the rows.
template <typename Columns>
void ExpectSameNorm(NormCase& c, Backend& reference, int64_t top_k, bool mapped, bool adds,
                    Form form, const Columns& columns) {
  const auto args = [&](const auto& pick) {
    Delta delta;
    if (adds) delta.rows = columns(pick(c.rows, c.d_rows));
    if (adds && top_k > 0) {
      delta.weights = pick(c.weights, c.d_weights);
      if (mapped) delta.row_of = pick(c.row_of, c.d_row_of);
    }
    const Tensor values = columns(pick(c.normed, c.d_normed));
    Activations out = {.values = values, .scales = {}};
    if (form == Form::kCopied) out.values = columns(pick(c.copy, c.d_copy));
    if (form == Form::kInt8) {
      out = {.values = columns(pick(c.codes, c.d_codes)), .scales = pick(c.scales, c.d_scales)};
    }
    return cuda::RmsNormArgs{.delta = delta,
                             .residual = columns(pick(c.residual, c.d_residual)),
                             .norm = {.weight = pick(c.weight, c.d_weight), .eps = 1e-5f},
                             .out = {.values = values, .activations = out},
                             .slots_are_old = top_k % 2 == 0};
  };
  const auto host = [](const OwnedTensor& t, const DeviceTensor&) { return t.view; };
  const auto device = [](const OwnedTensor&, const DeviceTensor& t) { return t.view; };
  const cuda::RmsNormArgs on_host = args(host);
  if (adds) {
    reference.AddRmsNorm(on_host.delta, on_host.residual, on_host.norm, on_host.out);
  } else {
    reference.RmsNorm(on_host.residual, on_host.norm, on_host.out);
  }
  cuda::RmsNorm(args(device), nullptr);
  ExpectSame(c.d_residual, c.residual);
  ExpectSame(c.d_normed, c.normed);
  ExpectSame(c.d_copy, c.copy);
  ExpectSame(c.d_codes, c.codes);
  ExpectSame(c.d_scales, c.scales);
}

TEST_P(CudaRowsTest, RmsNorm) {
  ForEachSlice([&](const Slice& slice, int64_t tokens, const auto& columns) {
    NormCase c(tokens, slice.width, slice.width + 16, 0);
    for (const Form form : {Form::kInt8, Form::kInPlace, Form::kCopied}) {
      ExpectSameNorm(c, reference(), 0, false, false, form, columns);
    }
  });
}

TEST_P(CudaRowsTest, AddRmsNormOfRowsAndOfExperts) {
  ForEachSlice([&](const Slice& slice, int64_t tokens, const auto& columns) {
    if (tokens == 0) return;
    for (const int64_t top_k : {0, 1, 2, 5}) {
      NormCase c(tokens, slice.width, slice.width + 16, top_k);
      ExpectSameNorm(c, reference(), top_k, true, true, Form::kInt8, columns);
      ExpectSameNorm(c, reference(), top_k, false, true, Form::kInPlace, columns);
    }
  });
}

// More than one piece for each thread, and steps of the sum that are not whole; rows so long that
// few of them are like many.
TEST_P(CudaRowsTest, RmsNormOfLongRows) {
  for (const int64_t width : {4160, 9000, 9001, 700}) {
    for (const int64_t top_k : {0, 2}) {
      NormCase c(2, width, width, top_k);
      ExpectSameNorm(c, reference(), top_k, true, true, Form::kInt8,
                     [](const Tensor& t) { return t; });
    }
  }
}

// Many rows take fewer threads each: whole pieces and others, rows that end inside a warp's share,
// each sum in front of the norm, each place for its results.
TEST_P(CudaRowsTest, RmsNormOfManyRows) {
  for (const Slice& slice : {Slice{64, 0}, Slice{532, 4}, Slice{61, 3}}) {
    SCOPED_TRACE(slice.width);
    const auto columns = [&](const Tensor& wide) {
      return wide.Cols(slice.offset, slice.offset + slice.width);
    };
    for (const int64_t top_k : {0, 2}) {
      NormCase c(258, slice.width, slice.width + 4, top_k);
      ExpectSameNorm(c, reference(), top_k, true, true, Form::kInt8, columns);
      ExpectSameNorm(c, reference(), 0, false, false, Form::kCopied, columns);
    }
  }
}

// More than a block holds in registers.
TEST_P(CudaRowsTest, QuantizeRowsThatAreLong) {
  for (const int64_t width : {16448, 1025, 1100}) {
    const OwnedTensor x = HostileRows(DType::kBF16, 3, width, 7);
    const OwnedTensor codes = OwnedTensor::Host(DType::kI8, {3, width});
    const OwnedTensor scales = OwnedTensor::Host(DType::kF32, {3});
    const DeviceTensor d_x(x), d_codes(codes), d_scales(scales);
    reference().QuantizeRows(x.view, Tensor(), {.values = codes.view, .scales = scales.view});
    cuda::QuantizeRows(
        {.x = d_x.view, .amax = Tensor(), .out = {.values = d_codes.view, .scales = d_scales.view}},
        nullptr);
    ExpectSame(d_codes, codes);
    ExpectSame(d_scales, scales);
  }
}

TEST_P(CudaRowsTest, EmbedRows) {
  ForEachSlice([&](const Slice& slice, int64_t tokens, const auto& columns) {
    const OwnedTensor ids = RandomInts({tokens}, 0, 10, 11);
    const DeviceTensor d_ids(ids);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const OwnedTensor table = HostileRows(dtype, 11, slice.width + 16, 12);
      const OwnedTensor out = RandomTensor(DType::kF32, {tokens, slice.width + 16}, 13);
      const DeviceTensor d_table(table), d_out(out);
      reference().EmbedRows(ids.view, columns(table.view), columns(out.view));
      cuda::EmbedRows(
          {.ids = d_ids.view, .table = columns(d_table.view), .out = columns(d_out.view)}, nullptr);
      ExpectSame(d_out, out);
    }
  });
}

TEST_P(CudaRowsTest, GatherRowsOfEveryType) {
  ForEachSlice([&](const Slice& slice, int64_t tokens, const auto& columns) {
    const OwnedTensor index = RandomInts({tokens}, -1, 10, 14);
    const DeviceTensor d_index(index);
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
      const int64_t wide = slice.width + 16;
      const OwnedTensor ints = RandomInts({11 * wide}, -1000000, 1000000, 15);
      const Tensor src(ints.view.raw(), dtype, {11, wide});
      const OwnedTensor dst = OwnedTensor::Host(dtype, {tokens, wide});
      const DeviceTensor d_src(src), d_dst(dst);
      reference().GatherRows(columns(src), index.view, columns(dst.view));
      cuda::GatherRows(
          {.src = columns(d_src.view), .index = d_index.view, .dst = columns(d_dst.view)}, nullptr);
      ExpectSame(d_dst, dst);
    }
    const OwnedTensor src = RandomTensor(DType::kF32, {11}, 16);
    const OwnedTensor dst = RandomTensor(DType::kF32, {tokens}, 17);
    const DeviceTensor d_src(src), d_dst(dst);
    reference().GatherRows(src.view, index.view, dst.view);
    cuda::GatherRows({.src = d_src.view, .index = d_index.view, .dst = d_dst.view}, nullptr);
    ExpectSame(d_dst, dst);
  });
}

TEST_P(CudaRowsTest, MergeColumns) {
  ForEachSlice([&](const Slice& slice, int64_t tokens, const auto&) {
    for (const DType dtype : {DType::kBF16, DType::kI8}) {
      const OwnedTensor ints = RandomInts({3 * tokens * slice.width}, -1000000, 1000000, 18);
      const Tensor shards(ints.view.raw(), dtype, {3, tokens, slice.width});
      const OwnedTensor out = OwnedTensor::Host(dtype, {tokens, 3 * slice.width + 16});
      const DeviceTensor d_shards(shards), d_out(out);
      const int64_t end = slice.offset + 3 * slice.width;
      reference().MergeColumns(shards, out.view.Cols(slice.offset, end));
      cuda::MergeColumns({.shards = d_shards.view, .out = d_out.view.Cols(slice.offset, end)},
                         nullptr);
      ExpectSame(d_out, out);
    }
  });
}

TEST_P(CudaRowsTest, Zero) {
  const OwnedTensor x = RandomTensor(DType::kF32, {7, 5}, 19);
  const DeviceTensor d_x(x);
  cuda::Zero(d_x.view.Rows(2, 6), nullptr);
  cuda::Zero(d_x.view.Rows(3, 3), nullptr);
  reference().Zero(x.view.Rows(2, 6));
  ExpectSame(d_x, x);
}

// Rows of one block, of several, and of so many that a third kernel is needed; with and without
// 16-byte loads.
TEST_P(CudaRowsTest, TopK) {
  struct Shape {
    int64_t rows, width, offset, k;
  };
  for (const auto& [rows, width, offset, k] :
       {Shape{0, 64, 0, 3}, Shape{17, 1, 0, 1}, Shape{9, 63, 3, kMaxTopK}, Shape{9, 4096, 0, 2},
        Shape{8, 4101, 0, 1}, Shape{8, 9001, 4, 20}, Shape{1, 280000, 1, kMaxTopK}}) {
    SCOPED_TRACE(std::to_string(k) + " of " + std::to_string(width));
    const OwnedTensor x = RowsWithTies(rows, width + 4, 20);
    const OwnedTensor values = RandomTensor(DType::kF32, {rows, k + 3}, 21);
    const OwnedTensor columns = RandomInts({rows, k + 1}, 0, 9, 22);
    const DeviceTensor d_x(x), d_values(values), d_columns(columns);
    const int64_t keys = cuda::TopKScratch(rows, width, k);
    const cuda::DeviceMemory scratch =
        cuda::DeviceMemory::Zeros(static_cast<size_t>(keys) * sizeof(uint64_t));
    reference().TopK(x.view.Cols(offset, offset + width), values.view.Cols(2, k + 2),
                     columns.view.Cols(1, k + 1));
    cuda::TopK({.x = d_x.view.Cols(offset, offset + width),
                .values = d_values.view.Cols(2, k + 2),
                .columns = d_columns.view.Cols(1, k + 1),
                .scratch = scratch.at<uint64_t>()},
               nullptr);
    ExpectSame(d_values, values);
    ExpectSame(d_columns, columns);
  }
}

}  // namespace
}  // namespace intermix
