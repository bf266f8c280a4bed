// GEMM throughput of CpuBackend, next to what the machine can do at best in the same run:
//   int8%  of the peak of int8 multiply-add instructions (what bounds prefill)
//   read%  of the read bandwidth of memory (what bounds decode; the weights rotate through more
//          memory than any cache holds)
// Rates are per CPU second: other processes on the machine disturb them little, idle spinning of
// our own threads counts. Run: gemm_benchmark [--threads=N] [Google Benchmark flags]. INTERMIX_ISA
// forces a kernel.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/cpu_limits.h"
#include "runtime/bench/turn_timer.h"
#include "tests/testing/random.h"

namespace intermix {
namespace {

constexpr int64_t kMoreThanCaches = int64_t{160} << 20;

struct Shape {
  const char* name;
  WeightFormat format;
  int64_t n;
  int64_t k;
  int64_t experts = 1;  // above 1: GroupedGemm, the rows spread evenly
};

struct Machine {
  std::unique_ptr<Backend> backend;
  double int8_ops = 0.0;
  double read_bytes = 0.0;
};

// Enough copies of the weight that reading one after the other never hits a cache.
std::vector<std::unique_ptr<PackedWeight>> Weights(Backend& backend, const Shape& shape) {
  std::vector<std::unique_ptr<PackedWeight>> weights;
  const QuantizedWeight weight = RandomWeight(shape.format, shape.n, shape.k, 1);
  int64_t bytes = 0;
  while (bytes < kMoreThanCaches || static_cast<int64_t>(weights.size()) < shape.experts) {
    weights.push_back(*backend.Prepack({&weight, 1}));
    bytes += weights.back()->bytes();
  }
  return weights;
}

void RunGemm(benchmark::State& state, Machine& machine, const Shape& shape, int64_t tokens) {
  Backend& backend = *machine.backend;
  static std::map<std::string, std::vector<std::unique_ptr<PackedWeight>>> cache;
  if (cache.count(shape.name) == 0) {
    cache.clear();  // one shape's weights at a time
    cache[shape.name] = Weights(backend, shape);
  }
  const std::vector<std::unique_ptr<PackedWeight>>& weights = cache[shape.name];
  const OwnedActivations x = RandomActivations(shape.format.scheme, tokens, shape.k, 2);
  const OwnedTensor y = OwnedTensor::Host(DType::kF32, {tokens, shape.n});
  std::vector<const PackedWeight*> experts(static_cast<size_t>(shape.experts));
  const OwnedTensor row_offsets = OwnedTensor::Host(DType::kI32, {shape.experts + 1});
  auto* offsets = row_offsets.view.data<int32_t>();
  for (int64_t e = 0; e <= shape.experts; ++e) {
    offsets[e] = static_cast<int32_t>(tokens * e / shape.experts);
  }
  size_t next = 0;
  int64_t bytes = 0;
  for (auto _ : state) {
    for (size_t e = 0; e < experts.size(); ++e) {
      experts[e] = weights[next++ % weights.size()].get();
      if (offsets[e + 1] > offsets[e]) bytes += experts[e]->bytes();
    }
    backend.GroupedGemm(x.view(), experts, row_offsets.view, y.view);
  }
  const double ops = 2.0 * static_cast<double>(tokens * shape.n * shape.k) *
                     static_cast<double>(state.iterations());
  state.counters["int8%"] =
      benchmark::Counter(100.0 * ops / machine.int8_ops, benchmark::Counter::kIsRate);
  state.counters["read%"] = benchmark::Counter(
      100.0 * static_cast<double>(bytes) / machine.read_bytes, benchmark::Counter::kIsRate);
}

std::vector<Shape> Shapes() {
  const auto integer = [](ScaleWidth width, int bits, int64_t g) {
    return WeightFormat{.scale_width = width, .bits = bits, .group_size = g};
  };
  const WeightFormat folded128 = integer(ScaleWidth::kFolded, 4, 128);
  return {
      {"folded_w4_g128", folded128, 4096, 4096},
      {"folded_w4_g32", integer(ScaleWidth::kFolded, 4, 32), 4096, 4096},
      {"wide_w4_g128", integer(ScaleWidth::kWide, 4, 128), 4096, 4096},
      {"wide_w4_g32", integer(ScaleWidth::kWide, 4, 32), 4096, 4096},
      {"float_w4_g128", {.scheme = Scheme::kFloat, .bits = 4, .group_size = 128}, 4096, 4096},
      {"wide_w8_gK", integer(ScaleWidth::kWide, 8, 4096), 4096, 4096},
      {"grouped_8_folded_w4_g128", folded128, 3584, 4096, 8},
  };
}

int Main(int argc, char** argv) {
  ThreadPoolOptions threads;
  for (int i = 1; i < argc; ++i) {
    constexpr const char* kFlag = "--threads=";
    if (std::strncmp(argv[i], kFlag, std::strlen(kFlag)) == 0) {
      threads.num_threads = std::atoi(argv[i] + std::strlen(kFlag));
    }
  }
  const absl::StatusOr<Isa> isa = IsaFromEnvironment();
  if (!isa.ok()) {
    std::cerr << isa.status().message() << "\n";
    return 1;
  }
  Machine machine{.backend = MakeCpuBackend({.threads = threads, .isa = *isa})};
  TurnTimer timer(CpuLimits(threads, *isa), nullptr, {.clock = &CpuSeconds});
  for (const TurnTimer::LimitRate& limit : timer.MeasureLimits()) {
    if (limit.limit->resource == Resource::kInt8) machine.int8_ops = limit.rate;
    if (limit.limit->resource == Resource::kBytes) machine.read_bytes = limit.rate;
  }
  std::cout << machine.backend->name() << ": " << machine.int8_ops * 1e-12 << " Tops int8, "
            << machine.read_bytes * 1e-9 << " GB/s read, per core\n";
  const std::vector<Shape> shapes = Shapes();
  for (const Shape& shape : shapes) {
    for (const int64_t tokens : {1, 2, 4, 8, 16, 64, 256, 1024}) {
      const std::string name = std::string(shape.name) + "/" + std::to_string(tokens);
      benchmark::RegisterBenchmark(name.c_str(), [&machine, &shape, tokens](benchmark::State& s) {
        RunGemm(s, machine, shape, tokens);
      })->MeasureProcessCPUTime();
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace intermix

int main(int argc, char** argv) { return intermix::Main(argc, argv); }
