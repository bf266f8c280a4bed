// CudaGraph: recorded work gives what the same ops give one by one, from whatever memory holds when
// it is launched; work that needs the host is never recorded.
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/testing/compare.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

// The agreement of a job of one rank.
bool Alone(bool mine) { return mine; }

class CudaGraphTest : public testing::Test {
 protected:
  // [rows, cols] on the device.
  Tensor Take(DType dtype, int64_t rows, int64_t cols) {
    buffers_.push_back(gpu_->Allocate(static_cast<size_t>(rows * cols) * ByteSize(dtype)));
    return buffers_.back().View(dtype, {rows, cols});
  }

  std::unique_ptr<Backend> gpu_ = *MakeCudaBackend({});
  std::vector<Buffer> buffers_;
};

constexpr int64_t kRows = 3;
constexpr int64_t kCols = 96;
constexpr int64_t kFeatures = 40;

// A quantised linear layer after a norm, wide enough to share its K among blocks.
TEST_F(CudaGraphTest, ReplaysGiveWhatTheOpsGive) {
  const std::vector<QuantizedWeight> parts = {RandomWeight(
      {.scheme = Scheme::kInteger, .scale_width = ScaleWidth::kFolded, .bits = 4, .group_size = 32},
      kFeatures, kCols, 1)};
  const auto weight = gpu_->Prepack(parts);
  ASSERT_TRUE(weight.ok()) << weight.status();
  const Tensor x = Take(DType::kF32, kRows, kCols);
  const Tensor gain = Take(DType::kF32, 1, kCols).Reshape({kCols});
  const Tensor normed = Take(DType::kF32, kRows, kCols);
  const Activations codes = {.values = Take(DType::kI8, kRows, kCols),
                             .scales = Take(DType::kF32, 1, kRows).Reshape({kRows})};
  const Tensor y = Take(DType::kF32, kRows, kFeatures);
  gpu_->CopyToDevice(RandomTensor(DType::kF32, {kCols}, 2).view.raw(), gain);
  int calls = 0;
  const auto work = [&] {
    ++calls;
    gpu_->RmsNorm(x, {.weight = gain, .eps = 1e-5f}, {.values = normed, .activations = codes});
    gpu_->Gemm(codes, **weight, y);
  };
  const std::unique_ptr<CudaGraph> graph = MakeCudaGraph(*gpu_);
  const OwnedTensor expected = OwnedTensor::Host(DType::kF32, {kRows, kFeatures});
  const OwnedTensor actual = OwnedTensor::Host(DType::kF32, {kRows, kFeatures});
  for (uint64_t step = 0; step < 6; ++step) {
    gpu_->CopyToDevice(RandomTensor(DType::kF32, {kRows, kCols}, 10 + step).view.raw(), x);
    work();
    gpu_->CopyToHost(y, expected.view.raw());
    gpu_->Zero(y);
    graph->Run(work, Alone);
    gpu_->CopyToHost(y, actual.view.raw());
    EXPECT_TRUE(BitwiseEqual(actual.view, expected.view)) << "step " << step;
  }
  EXPECT_TRUE(graph->recorded());
  EXPECT_EQ(calls, 6 + 2);  // once as it is, once to record it
}

// Experts that are not quantised: a replay has other numbers of rows than what was recorded.
TEST_F(CudaGraphTest, RowCountsOfTheBaselineStayOnTheDevice) {
  const WeightFormat none = {.scheme = Scheme::kNone};
  const std::vector<QuantizedWeight> parts[2] = {{RandomWeight(none, kFeatures, kCols, 1)},
                                                 {RandomWeight(none, kFeatures, kCols, 2)}};
  const auto first = gpu_->Prepack(parts[0]);
  const auto second = gpu_->Prepack(parts[1]);
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  const std::vector<const PackedWeight*> experts = {first->get(), second->get()};
  const Tensor x = Take(DType::kF32, kRows, kCols);
  const Tensor offsets = Take(DType::kI32, 1, 3).Reshape({3});
  const Tensor y = Take(DType::kF32, kRows, kFeatures);
  gpu_->CopyToDevice(RandomTensor(DType::kF32, {kRows, kCols}, 3).view.raw(), x);
  const auto work = [&] { gpu_->GroupedGemm({.values = x}, experts, offsets, y); };
  const std::unique_ptr<CudaGraph> graph = MakeCudaGraph(*gpu_);
  const OwnedTensor expected = OwnedTensor::Host(DType::kF32, {kRows, kFeatures});
  const OwnedTensor actual = OwnedTensor::Host(DType::kF32, {kRows, kFeatures});
  for (int32_t step = 0; step < 6; ++step) {
    const std::vector<int32_t> counted = {0, step % 4, kRows};
    gpu_->CopyToDevice(counted.data(), offsets);
    work();
    gpu_->CopyToHost(y, expected.view.raw());
    gpu_->Zero(y);
    graph->Run(work, Alone);
    gpu_->CopyToHost(y, actual.view.raw());
    EXPECT_TRUE(BitwiseEqual(actual.view, expected.view)) << "step " << step;
  }
  EXPECT_TRUE(graph->recorded());
}

TEST_F(CudaGraphTest, WorkThatAnotherRankCannotRecordIsNotRecorded) {
  const Tensor x = Take(DType::kF32, kRows, kCols);
  const std::unique_ptr<CudaGraph> graph = MakeCudaGraph(*gpu_);
  int asked = 0;
  for (int i = 0; i < 6; ++i) {
    graph->Run([&] { gpu_->Zero(x); },
               [&](bool mine) {
                 EXPECT_TRUE(mine);
                 return ++asked > 3;
               });
    EXPECT_EQ(graph->recorded(), i > 3);
  }
  EXPECT_EQ(asked, 4);
}

TEST_F(CudaGraphTest, WorkThatNeedsTheHostIsNotRecorded) {
  const Tensor x = Take(DType::kF32, kRows, kCols);
  std::vector<float> host(kRows * kCols, 1.0f);
  const std::vector<std::function<void()>> works = {
      [&] { gpu_->CopyToDevice(host.data(), x); },
      [&] { gpu_->CopyToHost(x, host.data()); },
      [&] { gpu_->Allocate(64); },
      [&] { gpu_->Synchronize(); },
  };
  for (const std::function<void()>& work : works) {
    const std::unique_ptr<CudaGraph> graph = MakeCudaGraph(*gpu_);
    for (int i = 0; i < 4; ++i) graph->Run(work, Alone);
    EXPECT_FALSE(graph->recorded());
  }
}

}  // namespace
}  // namespace intermix
