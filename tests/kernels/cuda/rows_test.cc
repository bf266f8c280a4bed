// The kernels of rows.cu, quantize_rows.cu and top_k.cu equal ReferenceBackend bit for bit, in
// every thread order: ragged widths, aligned and unaligned column slices, no rows, rows with NaN
// and infinities. Outputs are slices of wider tensors whose other columns must stay as they were.
#include "kernels/cuda/rows.h"

#include <cmath>
#include <vector>

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

TEST_P(CudaRowsTest, RmsNorm) {
  ForEachSlice([&](const Slice& slice, int64_t tokens, const auto& columns) {
    const int64_t wide = slice.width + 16;
    const OwnedTensor x = HostileRows(DType::kF32, tokens, wide, 3);
    const OwnedTensor weight = RandomTensor(DType::kF32, {slice.width}, 4);
    const OwnedTensor normed = RandomTensor(DType::kF32, {tokens, wide}, 5);
    const OwnedTensor copy = RandomTensor(DType::kF32, {tokens, wide}, 6);
    const OwnedTensor codes = OwnedTensor::Host(DType::kI8, {tokens, wide});
    const OwnedTensor scales = OwnedTensor::Host(DType::kF32, {tokens});
    const DeviceTensor d_x(x), d_weight(weight), d_normed(normed), d_copy(copy), d_codes(codes),
        d_scales(scales);
    const auto run = [&](const Activations& out, const Activations& d_out) {
      reference().RmsNorm(columns(x.view), weight.view, 1e-5f, columns(normed.view), out);
      cuda::RmsNorm({.x = columns(d_x.view),
                     .weight = d_weight.view,
                     .eps = 1e-5f,
                     .normed = columns(d_normed.view),
                     .out = d_out},
                    nullptr);
      ExpectSame(d_normed, normed);
    };
    run({.values = columns(codes.view), .scales = scales.view},
        {.values = columns(d_codes.view), .scales = d_scales.view});
    ExpectSame(d_codes, codes);
    ExpectSame(d_scales, scales);
    run({.values = columns(normed.view), .scales = {}},
        {.values = columns(d_normed.view), .scales = {}});
    run({.values = columns(copy.view), .scales = {}},
        {.values = columns(d_copy.view), .scales = {}});
    ExpectSame(d_copy, copy);
  });
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

TEST_P(CudaRowsTest, RmsNormOfARowThatIsLongerThanABlock) {
  const OwnedTensor x = HostileRows(DType::kF32, 2, 4160, 7);
  const OwnedTensor weight = RandomTensor(DType::kF32, {4160}, 8);
  const OwnedTensor normed = OwnedTensor::Host(DType::kF32, {2, 4160});
  const OwnedTensor codes = OwnedTensor::Host(DType::kI8, {2, 4160});
  const OwnedTensor scales = OwnedTensor::Host(DType::kF32, {2});
  const DeviceTensor d_x(x), d_weight(weight), d_normed(normed), d_codes(codes), d_scales(scales);
  reference().RmsNorm(x.view, weight.view, 1e-5f, normed.view,
                      {.values = codes.view, .scales = scales.view});
  cuda::RmsNorm({.x = d_x.view,
                 .weight = d_weight.view,
                 .eps = 1e-5f,
                 .normed = d_normed.view,
                 .out = {.values = d_codes.view, .scales = d_scales.view}},
                nullptr);
  ExpectSame(d_normed, normed);
  ExpectSame(d_codes, codes);
  ExpectSame(d_scales, scales);
}

TEST_P(CudaRowsTest, AddRows) {
  ForEachSlice([&](const Slice& slice, int64_t tokens, const auto& columns) {
    const OwnedTensor delta = HostileRows(DType::kBF16, tokens, slice.width + 16, 9);
    const OwnedTensor residual = HostileRows(DType::kF32, tokens, slice.width + 16, 10);
    const DeviceTensor d_delta(delta), d_residual(residual);
    reference().AddRows(columns(delta.view), columns(residual.view));
    cuda::AddRows({.delta = columns(d_delta.view), .residual = columns(d_residual.view)}, nullptr);
    ExpectSame(d_residual, residual);
  });
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
