// Ops that move whole rows. All are bound by memory: a thread moves one piece of a row.
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/row_grid.h"
#include "kernels/cuda/rows.h"

namespace intermix::cuda {
namespace {

// Copies `units` Units of each row. Batch b (blockIdx.z) is a further table of rows.
struct CopyParams {
  const char* src;
  char* dst;
  int64_t src_stride;  // bytes between rows
  int64_t dst_stride;
  int64_t src_batch;  // bytes between batches
  int64_t dst_batch;
  const int32_t* index;  // [rows]: the source of each row, -1 for zeros; null: the row itself
  int64_t rows;
  int64_t units;
};

template <typename Unit>
__global__ void CopyRowsKernel(CopyParams p) {
  start_early();
  const int64_t row = grid_row();
  const int64_t unit = grid_unit();
  if (row >= p.rows || unit >= p.units) return;
  const int64_t from = p.index == nullptr ? row : p.index[row];
  const char* src = p.src + blockIdx.z * p.src_batch + from * p.src_stride;
  char* dst = p.dst + blockIdx.z * p.dst_batch + row * p.dst_stride;
  reinterpret_cast<Unit*>(dst)[unit] = from < 0 ? Unit{} : reinterpret_cast<const Unit*>(src)[unit];
}

template <typename Unit>
void LaunchCopy(CopyParams p, int64_t row_bytes, int64_t batches, cudaStream_t stream) {
  p.units = row_bytes / static_cast<int64_t>(sizeof(Unit));
  LaunchShape shape = RowGrid(p.rows, p.units, stream);
  shape.grid.z = static_cast<unsigned>(batches);
  Launch("CopyRows", CopyRowsKernel<Unit>, shape, p);
}

// The widest unit that divides the row and every address.
void CopyRows(const CopyParams& p, int64_t row_bytes, int64_t batches, cudaStream_t stream) {
  const uint64_t all =
      reinterpret_cast<uintptr_t>(p.src) | reinterpret_cast<uintptr_t>(p.dst) |
      static_cast<uint64_t>(p.src_stride | p.dst_stride | p.src_batch | p.dst_batch | row_bytes);
  if (all % 16 == 0) {
    LaunchCopy<uint4>(p, row_bytes, batches, stream);
  } else if (all % 4 == 0) {
    LaunchCopy<uint32_t>(p, row_bytes, batches, stream);
  } else {
    LaunchCopy<uint8_t>(p, row_bytes, batches, stream);
  }
}

template <typename T>
struct EmbedParams {
  const int32_t* ids;
  const T* table;
  float* out;
  int64_t table_stride;  // elements
  int64_t out_stride;
  int64_t rows;
  int64_t units;
};

template <typename T, int kWidth>
__global__ void EmbedRowsKernel(EmbedParams<T> p) {
  start_early();
  const int64_t row = grid_row();
  const int64_t unit = grid_unit();
  if (row >= p.rows || unit >= p.units) return;
  const T* from = p.table + p.ids[row] * p.table_stride + unit * kWidth;
  float* to = p.out + row * p.out_stride + unit * kWidth;
  if constexpr (kWidth == 8) {
    float x[8];
    load_row8(from, x);
    store_f32x8(to, x);
  } else {
    *to = load_row1(from);
  }
}

template <typename T>
void EmbedRowsAs(const EmbedRowsArgs& args, cudaStream_t stream) {
  const bool wide =
      args.out.cols() % 8 == 0 && RowsAligned(args.table, 16) && RowsAligned(args.out, 16);
  const EmbedParams<T> params = {.ids = args.ids.data<int32_t>(),
                                 .table = static_cast<const T*>(args.table.raw()),
                                 .out = args.out.data<float>(),
                                 .table_stride = args.table.stride(0),
                                 .out_stride = args.out.stride(0),
                                 .rows = args.out.rows(),
                                 .units = wide ? args.out.cols() / 8 : args.out.cols()};
  Launch("EmbedRows", wide ? EmbedRowsKernel<T, 8> : EmbedRowsKernel<T, 1>,
         RowGrid(params.rows, params.units, stream), params);
}

int64_t RowStrideBytes(const Tensor& tensor, int dimension) {
  return tensor.stride(dimension) * static_cast<int64_t>(ByteSize(tensor.dtype()));
}

}  // namespace

void EmbedRows(const EmbedRowsArgs& args, cudaStream_t stream) {
  CHECK_EQ(args.ids.rows(), args.out.rows());
  CHECK_EQ(args.table.cols(), args.out.cols());
  if (args.table.dtype() == DType::kBF16) {
    EmbedRowsAs<uint16_t>(args, stream);
  } else {
    CHECK(args.table.dtype() == DType::kF32) << args.table.ToString();
    EmbedRowsAs<float>(args, stream);
  }
}

void GatherRows(const GatherRowsArgs& args, cudaStream_t stream) {
  CHECK(args.src.dtype() == args.dst.dtype())
      << args.src.ToString() << " into " << args.dst.ToString();
  CHECK_EQ(args.src.rank(), args.dst.rank());
  CHECK_EQ(args.index.rows(), args.dst.rows());
  const int64_t elements = args.src.rank() == 1 ? 1 : args.src.cols();
  CHECK_EQ(elements, args.dst.rank() == 1 ? 1 : args.dst.cols());
  CopyRows({.src = static_cast<const char*>(args.src.raw()),
            .dst = static_cast<char*>(args.dst.raw()),
            .src_stride = RowStrideBytes(args.src, 0),
            .dst_stride = RowStrideBytes(args.dst, 0),
            .src_batch = 0,
            .dst_batch = 0,
            .index = args.index.data<int32_t>(),
            .rows = args.index.rows(),
            .units = 0},
           elements * static_cast<int64_t>(ByteSize(args.src.dtype())), 1, stream);
}

void MergeColumns(const MergeColumnsArgs& args, cudaStream_t stream) {
  const Tensor& shards = args.shards;
  CHECK_EQ(shards.rank(), 3);
  CHECK(shards.dtype() == args.out.dtype()) << shards.ToString() << " into " << args.out.ToString();
  CHECK_EQ(args.out.cols(), shards.shape(0) * shards.cols());
  CHECK_EQ(args.out.rows(), shards.shape(1));
  const int64_t shard_bytes = shards.cols() * static_cast<int64_t>(ByteSize(shards.dtype()));
  CopyRows({.src = static_cast<const char*>(shards.raw()),
            .dst = static_cast<char*>(args.out.raw()),
            .src_stride = RowStrideBytes(shards, 1),
            .dst_stride = RowStrideBytes(args.out, 0),
            .src_batch = RowStrideBytes(shards, 0),
            .dst_batch = shard_bytes,
            .index = nullptr,
            .rows = shards.shape(1),
            .units = 0},
           shard_bytes, shards.shape(0), stream);
}

void Zero(const Tensor& tensor, cudaStream_t stream) {
  CHECK(tensor.contiguous()) << tensor.ToString();
  if (tensor.bytes() == 0) return;
  const cudaError_t error =
      cudaMemsetAsync(tensor.raw(), 0, static_cast<size_t>(tensor.bytes()), stream);
  CHECK(error == cudaSuccess) << "zeroing " << tensor.ToString() << ": "
                              << cudaGetErrorString(error);
}

}  // namespace intermix::cuda
