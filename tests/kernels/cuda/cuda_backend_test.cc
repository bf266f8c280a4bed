// CudaBackend, each op against ReferenceBackend: the kernels' own tests go through the shapes, this
// one through the backend's wiring. Memory, copies, stacked and mixed weights, and what is refused.
#include "kernels/cuda/cuda_backend.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/reference_backend.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

std::unique_ptr<Backend> MakeGpu() { return *MakeCudaBackend({.device = 0, .rank = 0}); }

// Lends tensors of the host to a backend's op: to the reference as they are, to a GPU as copies.
class Lender {
 public:
  explicit Lender(Backend& backend) : backend_(backend) {}

  // The same values where the backend can read them. Strided rows become contiguous.
  Tensor operator()(const Tensor& host) {
    if (host.empty() || backend_.device() == Device::kCpu) return host;
    buffers_.push_back(backend_.Allocate(static_cast<size_t>(host.bytes())));
    const Tensor flat = buffers_.back().View(host.dtype(), {host.num_elements()});
    backend_.CopyToDevice(host.raw(), flat);
    switch (host.rank()) {
      case 1:
        return flat;
      case 2:
        return flat.Reshape({host.rows(), host.cols()});
      case 3:
        return flat.Reshape({host.shape(0), host.shape(1), host.shape(2)});
      default:
        return flat.Reshape({host.shape(0), host.shape(1), host.shape(2), host.shape(3)});
    }
  }
  Activations operator()(const Activations& host) {
    return {.values = (*this)(host.values), .scales = (*this)(host.scales)};
  }
  PagedRows operator()(const PagedRows& host) {
    return {.positions = (*this)(host.positions),
            .slots = (*this)(host.slots),
            .query_starts = (*this)(host.query_starts),
            .block_tables = (*this)(host.block_tables)};
  }

 private:
  Backend& backend_;
  std::vector<Buffer> buffers_;
};

// residual += delta; the norm after it goes nowhere.
void AddRows(Backend& backend, Lender& lend, const Delta& delta, const Tensor& residual) {
  const int64_t cols = residual.cols();
  const OwnedTensor gains = RandomTensor(DType::kF32, {cols}, 7);
  const OwnedTensor room = OwnedTensor::Host(DType::kF32, {residual.rows(), cols});
  const Tensor normed = lend(room.view);
  backend.AddRmsNorm(delta, residual, {.weight = lend(gains.view), .eps = 1e-5f},
                     {.values = normed, .activations = {.values = normed, .scales = {}}});
}

class CudaBackendTest : public testing::Test {
 protected:
  // The output, at first zero, of `op(backend, lend, out)` on one backend.
  template <typename Op>
  static OwnedTensor Output(Backend& backend, DType dtype, std::initializer_list<int64_t> shape,
                            const Op& op) {
    OwnedTensor host = OwnedTensor::Host(dtype, shape);
    Lender lend(backend);
    const Tensor out = lend(host.view);
    op(backend, lend, out);
    if (backend.device() == Device::kCuda) backend.CopyToHost(out, host.view.raw());
    return host;
  }
  template <typename Op>
  void ExpectSame(DType dtype, std::initializer_list<int64_t> shape, const Op& op) {
    const OwnedTensor expected = Output(reference_, dtype, shape, op);
    const OwnedTensor actual = Output(*gpu_, dtype, shape, op);
    EXPECT_TRUE(BitwiseEqual(actual.view, expected.view));
  }

  ReferenceBackend reference_;
  std::unique_ptr<Backend> gpu_ = MakeGpu();
};

TEST_F(CudaBackendTest, MemoryIsZeroedAndCopiesOfAnySizeComeBack) {
  const Buffer fresh = gpu_->Allocate(1000);
  std::vector<uint8_t> bytes(1000, 7);
  gpu_->CopyToHost(fresh.View(DType::kU8, {1000}), bytes.data());
  EXPECT_EQ(bytes, std::vector<uint8_t>(1000, 0));
  // More than the staging memory holds, and many small ones after it.
  const OwnedTensor large = RandomInts({2500001}, 0, 1 << 30, 1);
  Lender lend(*gpu_);
  const Tensor there = lend(large.view);
  for (int32_t i = 0; i < 1000; ++i) gpu_->CopyToDevice(&i, there.Rows(i, i + 1));
  const OwnedTensor back = OwnedTensor::Host(DType::kI32, {2500001});
  gpu_->CopyToHost(there, back.view.raw());
  for (int32_t i = 0; i < 1000; ++i) large.view.data<int32_t>()[i] = i;
  EXPECT_TRUE(BitwiseEqual(back.view, large.view));
  const Buffer pinned = gpu_->AllocateHost(4000);
  gpu_->StartCopyToHost(there.Rows(0, 1000), pinned.data());
  gpu_->StartCopyToHost(there.Rows(0, 0), pinned.data());
  gpu_->Synchronize();
  EXPECT_EQ(std::memcmp(pinned.data(), large.view.raw(), 4000), 0);
}

TEST_F(CudaBackendTest, RowOps) {
  const OwnedTensor x = RandomTensor(DType::kF32, {5, 48}, 1, 3.0);
  const OwnedTensor delta = RandomTensor(DType::kBF16, {5, 48}, 2);
  const OwnedTensor weight = RandomTensor(DType::kF32, {48}, 3);
  const OwnedTensor index = RandomInts({9}, -1, 4, 4);
  const OwnedTensor ids = RandomInts({9}, 0, 4, 5);
  const OwnedTensor shards = RandomTensor(DType::kBF16, {3, 5, 16}, 6);
  ExpectSame(DType::kF32, {5}, [&](Backend& b, Lender& lend, const Tensor& out) {
    b.RowAbsMax(lend(delta.view), out);
  });
  for (const bool norm : {true, false}) {
    for (const bool codes : {true, false}) {
      const auto op = [&](Backend& b, Lender& lend, const Tensor& values, const Tensor& scales) {
        const OwnedTensor room = OwnedTensor::Host(DType::kF32, {5, 48});
        const OwnedTensor amax = OwnedTensor::Host(DType::kF32, {5});
        const Activations to = {.values = values, .scales = scales};
        const Tensor rows = lend(x.view);
        const Tensor peaks = lend(amax.view);
        b.RowAbsMax(rows, peaks);
        if (norm) {
          b.RmsNorm(rows, {.weight = lend(weight.view), .eps = 1e-5f},
                    {.values = lend(room.view), .activations = to});
        }
        if (!norm) b.QuantizeRows(rows, peaks, to);
      };
      const OwnedTensor other = OwnedTensor::Host(codes ? DType::kF32 : DType::kI8, {5, 48});
      if (codes) {
        ExpectSame(DType::kI8, {5, 48}, [&](Backend& b, Lender& lend, const Tensor& out) {
          op(b, lend, out, lend(RandomTensor(DType::kF32, {5}, 9).view));
        });
      } else {
        ExpectSame(DType::kF32, {5}, [&](Backend& b, Lender& lend, const Tensor& out) {
          op(b, lend, lend(other.view), out);
        });
      }
    }
  }
  ExpectSame(DType::kF32, {5, 48}, [&](Backend& b, Lender& lend, const Tensor& out) {
    b.QuantizeRows(lend(x.view), Tensor(), {.values = out});
    AddRows(b, lend, {.rows = lend(delta.view)}, out);
  });
  ExpectSame(DType::kF32, {9, 48}, [&](Backend& b, Lender& lend, const Tensor& out) {
    b.EmbedRows(lend(ids.view), lend(delta.view), out);
  });
  ExpectSame(DType::kBF16, {9, 48}, [&](Backend& b, Lender& lend, const Tensor& out) {
    b.GatherRows(lend(delta.view), lend(index.view), out);
  });
  ExpectSame(DType::kBF16, {5, 48}, [&](Backend& b, Lender& lend, const Tensor& out) {
    b.MergeColumns(lend(shards.view), out);
  });
  ExpectSame(DType::kF32, {5, 48}, [&](Backend& b, Lender& lend, const Tensor& out) {
    b.QuantizeRows(lend(x.view), Tensor(), {.values = out});
    b.Zero(out.Rows(1, 3));
  });
}

TEST_F(CudaBackendTest, RoutingOps) {
  const OwnedTensor x = RandomTensor(DType::kF32, {7, 32}, 1);
  const OwnedTensor gate = RandomTensor(DType::kF32, {8, 32}, 2);
  const OwnedTensor weights = RandomTensor(DType::kF32, {7, 2}, 3);
  const OwnedTensor experts = RandomInts({7, 2}, 0, 7, 4);
  const OwnedTensor rows = RandomTensor(DType::kBF16, {14, 32}, 5);
  const OwnedTensor row_of = RandomInts({7, 2}, 0, 13, 6);
  const OwnedTensor tokens = OwnedTensor::Host(DType::kI32, {14});
  const OwnedTensor slots = OwnedTensor::Host(DType::kI32, {14});
  const OwnedTensor offsets = OwnedTensor::Host(DType::kI32, {5});
  ExpectSame(DType::kI32, {7, 2}, [&](Backend& b, Lender& lend, const Tensor& out) {
    b.Route(lend(x.view), lend(gate.view), out, lend(weights.view));
  });
  ExpectSame(DType::kF32, {7, 2}, [&](Backend& b, Lender& lend, const Tensor& out) {
    b.Route(lend(x.view), lend(gate.view), lend(experts.view), out);
  });
  const auto sort = [&](Backend& b, Lender& lend, ExpertOrder to) {
    if (to.token_of_row.empty()) to.token_of_row = lend(tokens.view);
    if (to.row_of_slot.empty()) to.row_of_slot = lend(slots.view);
    if (to.row_offsets.empty()) to.row_offsets = lend(offsets.view);
    const bool whole = !to.rows.values.empty();
    b.SortByExpert(lend(experts.view), 2, {.values = whole ? lend(x.view) : Tensor()}, to);
    return to;
  };
  ExpectSame(DType::kI32, {14}, [&](Backend& b, Lender& lend, const Tensor& out) {
    sort(b, lend, {.token_of_row = out});
  });
  ExpectSame(DType::kI32, {14}, [&](Backend& b, Lender& lend, const Tensor& out) {
    sort(b, lend, {.row_of_slot = out});
  });
  ExpectSame(DType::kF32, {14, 32}, [&](Backend& b, Lender& lend, const Tensor& out) {
    sort(b, lend, {.rows = {.values = out, .scales = {}}});
  });
  ExpectSame(DType::kI32, {4}, [&](Backend& b, Lender& lend, const Tensor& out) {
    const ExpertOrder order = sort(b, lend, {.totals = out});
    b.AddRowCounts(order.row_offsets, out);
  });
  for (const Tensor& from : {row_of.view, Tensor()}) {
    ExpectSame(DType::kF32, {7, 32}, [&](Backend& b, Lender& lend, const Tensor& out) {
      b.QuantizeRows(lend(x.view), Tensor(), {.values = out});
      AddRows(b, lend,
              {.rows = lend(rows.view), .row_of = lend(from), .weights = lend(weights.view)}, out);
    });
  }
}

WeightFormat Integer(ScaleWidth width, int bits = 4) {
  return {.scheme = Scheme::kInteger, .scale_width = width, .bits = bits, .group_size = 32};
}
const WeightFormat kFolded = Integer(ScaleWidth::kFolded);
const WeightFormat kWide = Integer(ScaleWidth::kWide);
const WeightFormat kEight = Integer(ScaleWidth::kWide, 8);
const WeightFormat kFloat = {.scheme = Scheme::kFloat, .bits = 4, .group_size = 32};

// Weights of these formats stacked, N features each.
std::vector<QuantizedWeight> Parts(const std::vector<WeightFormat>& formats, uint64_t seed) {
  std::vector<QuantizedWeight> parts;
  for (const WeightFormat& format : formats) parts.push_back(RandomWeight(format, 24, 96, seed++));
  return parts;
}

TEST_F(CudaBackendTest, GemmOfEveryFormatAloneAndStacked) {
  const OwnedActivations x = RandomActivations(Scheme::kInteger, 5, 96, 1);
  for (const std::vector<WeightFormat>& formats : std::vector<std::vector<WeightFormat>>{
           {kFolded}, {kWide}, {kEight}, {kFloat}, {kFolded, kFolded, kWide}, {kFloat, kFolded}}) {
    const std::vector<QuantizedWeight> parts = Parts(formats, 10);
    const int64_t n = 24 * static_cast<int64_t>(parts.size());
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      ExpectSame(dtype, {5, n}, [&](Backend& b, Lender& lend, const Tensor& out) {
        const auto weight = b.Prepack(parts);
        ASSERT_TRUE(weight.ok()) << weight.status();
        EXPECT_EQ((*weight)->n(), n);
        b.Gemm(lend(x.view()), **weight, out);
        b.Synchronize();
      });
    }
  }
}

TEST_F(CudaBackendTest, AccumulatorsAreThoseOfTheCpus) {
  const OwnedActivations x = RandomActivations(Scheme::kInteger, 5, 96, 1);
  const std::unique_ptr<Backend> cpu = MakeCpuBackend({.threads = {.num_threads = 1}});
  for (const WeightFormat& format : {kFolded, kWide, kEight}) {
    const auto op = [&](Backend& b, Lender& lend, const Tensor& out) {
      const auto weight = b.Prepack(Parts({format}, 10));
      b.Gemm(lend(x.view()), **weight, out);
      b.Synchronize();
    };
    ExpectSame(DType::kI32, {5, 24}, op);
    const OwnedTensor expected = Output(*cpu, DType::kI32, {5, 24}, op);
    EXPECT_TRUE(BitwiseEqual(Output(*gpu_, DType::kI32, {5, 24}, op).view, expected.view));
  }
}

// Experts whose parts have other formats than their neighbours', one of them without rows. The same
// backend meets two lists of experts that begin alike.
TEST_F(CudaBackendTest, GroupedGemmOfExpertsThatAreCutDifferently) {
  const OwnedActivations x = RandomActivations(Scheme::kInteger, 9, 96, 1);
  const OwnedTensor offsets = OwnedTensor::Host(DType::kI32, {5});
  const std::vector<int32_t> begins = {0, 3, 3, 7, 8};
  std::memcpy(offsets.view.raw(), begins.data(), begins.size() * sizeof(int32_t));
  const std::vector<std::vector<WeightFormat>> formats = {
      {kFolded, kFolded}, {kWide, kFolded}, {kFolded, kWide}, {kFolded, kFolded}};
  const auto op = [&](Backend& b, Lender& lend, const Tensor& out) {
    std::vector<std::unique_ptr<PackedWeight>> owned;
    std::vector<const PackedWeight*> weights;
    for (size_t e = 0; e < formats.size(); ++e) {
      owned.push_back(*b.Prepack(Parts(formats[e], 100 * e)));
      weights.push_back(owned.back().get());
    }
    const OwnedTensor first = OwnedTensor::Host(DType::kBF16, {9, 48});
    b.GroupedGemm(lend(x.view()), weights, lend(offsets.view), lend(first.view));
    std::swap(weights[2], weights[3]);
    b.GroupedGemm(lend(x.view()), weights, lend(offsets.view), out);
    b.Synchronize();
  };
  ExpectSame(DType::kBF16, {9, 48}, op);
}

// Behind a GEMM, what was written before it is read early; what the sort behind it writes is not. A
// kernel that reads too early is an error in the emulator.
TEST_F(CudaBackendTest, RoutingThatWasJustWrittenIsReadAfterTheWait) {
  const OwnedActivations x = RandomActivations(Scheme::kInteger, 4, 96, 1);
  const OwnedTensor experts = RandomInts({4, 2}, 0, 1, 2);
  const OwnedTensor weights = RandomTensor(DType::kF32, {4, 2}, 3);
  const OwnedTensor gains = RandomTensor(DType::kF32, {24}, 4);
  const OwnedTensor token_of = OwnedTensor::Host(DType::kI32, {8});
  const OwnedTensor slots = OwnedTensor::Host(DType::kI32, {8});
  const OwnedTensor offsets = OwnedTensor::Host(DType::kI32, {3});
  const OwnedActivations sorted = RandomActivations(Scheme::kInteger, 8, 96, 5);
  const OwnedTensor rows = OwnedTensor::Host(DType::kBF16, {8, 24});
  const OwnedTensor alone = OwnedTensor::Host(DType::kF32, {4, 24});
  const std::vector<QuantizedWeight> parts = {RandomWeight(kFolded, 24, 96, 6)};
  ExpectSame(DType::kF32, {4, 24}, [&](Backend& b, Lender& lend, const Tensor& out) {
    const std::unique_ptr<PackedWeight> weight = *b.Prepack(parts);
    const Activations tokens = lend(x.view());
    const Tensor expert_of = lend(experts.view);
    const Norm norm = {.weight = lend(gains.view), .eps = 1e-5f};
    const ExpertOrder order = {.token_of_row = lend(token_of.view),
                               .row_of_slot = lend(slots.view),
                               .row_offsets = lend(offsets.view),
                               .rows = lend(sorted.view())};
    const Tensor y = lend(rows.view);
    const Tensor normed = lend(alone.view);
    const Delta delta = {
        .rows = y, .row_of = order.row_of_slot.Reshape({4, 2}), .weights = lend(weights.view)};
    const std::vector<const PackedWeight*> both(2, weight.get());
    for (int i = 0; i < 2; ++i) {  // the first puts the list of experts where kernels read it
      b.GroupedGemm(order.rows, both, order.row_offsets, y);
      b.SortByExpert(expert_of, 0, tokens, order);
    }
    b.AddRmsNorm(delta, out, norm,
                 {.values = normed, .activations = {.values = normed, .scales = {}}});
    b.Synchronize();
  });
}

// Gate and up of one format, of two, and lists of experts that have both; for few rows, and for
// many that wgmma would take.
TEST_F(CudaBackendTest, GatedGemmOfOneFormatOfTwoAndOfBoth) {
  using Formats = std::pair<WeightFormat, WeightFormat>;
  const Formats same = {kFolded, kFolded};
  const Formats other = {kFolded, kWide};
  for (const int32_t tokens : {9, 300}) {
    const OwnedActivations x = RandomActivations(Scheme::kInteger, tokens, 96, 1);
    const OwnedTensor offsets = OwnedTensor::Host(DType::kI32, {4});
    const std::vector<int32_t> begins = {0, tokens / 3, tokens / 3, tokens};
    std::memcpy(offsets.view.raw(), begins.data(), begins.size() * sizeof(int32_t));
    for (const std::vector<Formats>& experts : std::vector<std::vector<Formats>>{
             {same}, {other}, {same, same, same}, {same, other, other}, {other, same, same}}) {
      SCOPED_TRACE(experts.size());
      ExpectSame(DType::kBF16, {tokens, 24}, [&](Backend& b, Lender& lend, const Tensor& out) {
        std::vector<std::unique_ptr<PackedWeight>> owned;
        std::vector<const PackedWeight*> weights;
        for (const Formats& formats : experts) {
          const uint64_t seed = 10 * owned.size();
          owned.push_back(*b.PrepackGated(RandomWeight(formats.first, 24, 96, seed),
                                          RandomWeight(formats.second, 24, 96, seed + 1)));
          EXPECT_EQ(owned.back()->n(), 48);
          weights.push_back(owned.back().get());
        }
        b.GatedGemm(lend(x.view()), weights, experts.size() == 1 ? Tensor() : lend(offsets.view),
                    out);
        b.Synchronize();
      });
    }
  }
}

TEST_F(CudaBackendTest, UnquantisedWeightsGoThroughCublasLt) {
  const OwnedActivations x = RandomActivations(Scheme::kNone, 6, 64, 1);
  const OwnedTensor offsets = OwnedTensor::Host(DType::kI32, {3});
  offsets.view.data<int32_t>()[1] = 4;
  offsets.view.data<int32_t>()[2] = 6;
  const WeightFormat none = {.scheme = Scheme::kNone};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<QuantizedWeight> a = {RandomWeight(none, 24, 64, 2, Content::kRandom, dtype),
                                            RandomWeight(none, 8, 64, 3, Content::kRandom, dtype)};
    const std::vector<QuantizedWeight> b = {RandomWeight(none, 32, 64, 4, Content::kRandom, dtype)};
    const auto op = [&](Backend& backend, Lender& lend, const Tensor& out) {
      const auto first = backend.Prepack(a);
      const auto second = backend.Prepack(b);
      ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
      const std::vector<const PackedWeight*> weights = {first->get(), second->get()};
      backend.GroupedGemm(lend(x.view()), weights, lend(offsets.view), out);
      backend.Synchronize();
    };
    const OwnedTensor expected = Output(reference_, DType::kF32, {6, 32}, op);
    const OwnedTensor actual = Output(*gpu_, DType::kF32, {6, 32}, op);
    double error = 0.0;
    double size = 0.0;
    for (int64_t m = 0; m < 6; ++m) {
      for (int64_t n = 0; n < 32; ++n) {
        error += std::pow(ElementAt(actual.view, m, n) - ElementAt(expected.view, m, n), 2);
        size += std::pow(ElementAt(expected.view, m, n), 2);
      }
    }
    EXPECT_LT(std::sqrt(error / size), 0.01);  // bfloat16 has 8 bits
    EXPECT_GT(size, 0.0);
  }
}

// 2 sequences of 5 and 1 rows over blocks of 4 positions; 2 heads share one K/V head.
TEST_F(CudaBackendTest, RopeAndAttention) {
  constexpr int64_t kDim = 16;
  const OwnedTensor q = RandomTensor(DType::kF32, {6, 2 * kDim}, 1);
  const OwnedTensor k = RandomTensor(DType::kF32, {6, kDim}, 2);
  const OwnedTensor v = RandomTensor(DType::kF32, {6, kDim}, 3);
  const OwnedTensor rope = RandomTensor(DType::kF32, {16, kDim}, 4, 0.5);
  const OwnedTensor cache = RandomTensor(DType::kBF16, {8, 1, 4, kDim}, 5);
  std::vector<int32_t> positions = {0, 1, 2, 3, 4, 6};
  std::vector<int32_t> slots = {12, 13, 14, 15, 4, 22};
  std::vector<int32_t> starts = {0, 5, 6};
  std::vector<int32_t> tables = {3, 1, 0, 5};
  const PagedRows rows = {.positions = Tensor(positions.data(), DType::kI32, {6}),
                          .slots = Tensor(slots.data(), DType::kI32, {6}),
                          .query_starts = Tensor(starts.data(), DType::kI32, {3}),
                          .block_tables = Tensor(tables.data(), DType::kI32, {2, 2})};
  const std::vector<int32_t> kv_head_of = {0, 0};
  const auto copy = [](const OwnedTensor& from, std::initializer_list<int64_t> shape) {
    OwnedTensor to = OwnedTensor::Host(from.view.dtype(), shape);
    std::memcpy(to.view.raw(), from.view.raw(), static_cast<size_t>(from.view.bytes()));
    return to;
  };
  const auto op = [&](Backend& b, Lender& lend, const Tensor& out, bool attend) {
    const OwnedTensor q_copy = copy(q, {6, 2 * kDim});
    const OwnedTensor k_copy = copy(k, {6, kDim});
    const OwnedTensor k_cache = copy(cache, {8, 1, 4, kDim});
    const OwnedTensor v_cache = copy(cache, {8, 1, 4, kDim});
    const Tensor turned = lend(q_copy.view);
    const PagedRows paged = lend(rows);
    const KvLayer layer = {.k = attend ? lend(k_cache.view) : out, .v = lend(v_cache.view)};
    b.RopeAndStoreKv(turned, lend(k_copy.view), lend(v.view), lend(rope.view), paged, layer);
    if (attend) b.PagedAttention(turned, paged, layer, kv_head_of, 0.25f, out);
    b.Synchronize();
  };
  ExpectSame(DType::kBF16, {8, 1, 4, kDim},
             [&](Backend& b, Lender& lend, const Tensor& out) { op(b, lend, out, false); });
  const auto attend = [&](Backend& b, Lender& lend, const Tensor& out) { op(b, lend, out, true); };
  const OwnedTensor expected = Output(reference_, DType::kBF16, {6, 2 * kDim}, attend);
  const OwnedTensor actual = Output(*gpu_, DType::kBF16, {6, 2 * kDim}, attend);
  for (int64_t m = 0; m < 6; ++m) {
    for (int64_t d = 0; d < 2 * kDim; ++d) {
      EXPECT_NEAR(ElementAt(actual.view, m, d), ElementAt(expected.view, m, d), 0.03) << m;
    }
  }
}

TEST_F(CudaBackendTest, ZeroTokensAreFine) {
  const auto weight = gpu_->Prepack(Parts({kFolded}, 1));
  const Buffer none = gpu_->Allocate(0);
  const Tensor f32 = none.View(DType::kF32, {0, 96});
  const Activations x = {.values = none.View(DType::kI8, {0, 96}),
                         .scales = none.View(DType::kF32, {0})};
  const Buffer gains = gpu_->Allocate(96 * 4);
  const Norm norm = {.weight = gains.View(DType::kF32, {96}), .eps = 1e-5f};
  gpu_->RmsNorm(f32, norm, {.values = f32, .activations = x});
  gpu_->Gemm(x, **weight, none.View(DType::kF32, {0, 24}));
  gpu_->AddRmsNorm({.rows = none.View(DType::kBF16, {0, 96})}, f32, norm,
                   {.values = f32, .activations = x});
  gpu_->Synchronize();
}

TEST_F(CudaBackendTest, RefusesWhatItCannotRun) {
  EXPECT_THAT(std::string(MakeCudaBackend({.device = 99, .rank = 7}).status().message()),
              ContainsRegex("rank 7 wants GPU 99 of its host, which has [0-9]+; start at most"));
  std::vector<QuantizedWeight> mixed = Parts({kFolded}, 1);
  mixed.push_back(RandomWeight({.scheme = Scheme::kNone}, 8, 96, 2));
  EXPECT_THAT(std::string(gpu_->Prepack(mixed).status().message()), HasSubstr("all of them or"));
  EXPECT_THAT(std::string(gpu_->Prepack({}).status().message()), HasSubstr("at least one"));
}

using CudaBackendDeathTest = CudaBackendTest;

TEST_F(CudaBackendDeathTest, MistakesAndErrorsAreFatalAndNamed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const OwnedTensor host = OwnedTensor::Host(DType::kF32, {2, 32});
  EXPECT_DEATH(gpu_->Zero(host.view), "Zero was given F32\\[2, 32\\] of the host");
  EXPECT_DEATH(MakeCudaBackend({.rank = 5}).value()->Allocate(size_t{1} << 50),
               "rank 5, GPU 0: allocating .* bytes .use more GPUs");
}

}  // namespace
}  // namespace intermix
