// StepGraphs: a step of a shape seen before is replayed, without its ops being called again.
#include "runtime/engine/step_graphs.h"

#include <numeric>

#include "comm/self_communicator.h"
#include "gtest/gtest.h"
#include "kernels/reference/reference_backend.h"

namespace intermix {
namespace {

// Runs steps of these shapes, each of which adds 1 to some numbers; how often the ops themselves
// ran.
int CountForwards(Backend& backend, bool wanted, const std::vector<int64_t>& shapes) {
  const Buffer memory = backend.Allocate(64);
  const Tensor one = memory.View(DType::kI32, {9});  // one row of each of 8 experts
  const Buffer sums = backend.Allocate(64);
  const Tensor sum = sums.View(DType::kI32, {8});
  const std::unique_ptr<Communicator> control = MakeSelfCommunicator();
  StepGraphs graphs(backend, *control, wanted);
  std::vector<int32_t> offsets(9);
  std::iota(offsets.begin(), offsets.end(), 0);
  backend.CopyToDevice(offsets.data(), one);
  int forwards = 0;
  for (size_t step = 0; step < shapes.size(); ++step) {
    const Tensor result = graphs.Run({shapes[step], 7}, one.raw(), [&] {
      ++forwards;
      backend.AddRowCounts(one, sum);
      return sum;
    });
    std::vector<int32_t> values(8);
    backend.CopyToHost(result, values.data());
    EXPECT_EQ(values, std::vector<int32_t>(8, static_cast<int32_t>(step + 1)));
  }
  return forwards;
}

TEST(StepGraphsTest, ReplaysWhatItHasSeen) {
  const std::unique_ptr<Backend> gpu = *MakeCudaBackend({});
  EXPECT_EQ(CountForwards(*gpu, true, {1, 1, 1, 1, 1}), 2);  // as it is, then to record it
  EXPECT_EQ(CountForwards(*gpu, true, {1, 2, 1, 2, 1, 2, 3}), 5);
  EXPECT_EQ(CountForwards(*gpu, false, {1, 1, 1, 1, 1}), 5);
}

TEST(StepGraphsTest, RunsEveryStepOnOtherDevices) {
  ReferenceBackend cpu;
  EXPECT_EQ(CountForwards(cpu, true, {1, 1, 1, 1, 1}), 5);
}

// Beyond some number of shapes all are forgotten, and come back when they are seen again.
TEST(StepGraphsTest, ForgetsShapesWhenThereAreTooMany) {
  const std::unique_ptr<Backend> gpu = *MakeCudaBackend({});
  std::vector<int64_t> shapes;
  for (int64_t shape = 0; shape < 300; ++shape) shapes.insert(shapes.end(), {shape, shape});
  shapes.insert(shapes.end(), {0, 0, 0});
  EXPECT_EQ(CountForwards(*gpu, true, shapes), 602);
}

}  // namespace
}  // namespace intermix
