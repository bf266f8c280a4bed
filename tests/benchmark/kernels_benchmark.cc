// Every op of a backend over the shapes of `intermix bench kernels` as a Google Benchmark, so that
// its tools (repetitions, filters, compare.py) work on them. Mixtral-8x7B's dimensions.
// Run: kernels_benchmark [--threads=N] [Google Benchmark flags]. INTERMIX_ISA forces a kernel.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "runtime/bench/kernel_cases.h"
#include "runtime/bench/model_presets.h"

namespace intermix {
namespace {

void RunCase(benchmark::State& state, Backend& backend, const KernelCase& kernel_case) {
  const PreparedKernel kernel = kernel_case.prepare(backend);
  for (auto _ : state) kernel.run();
  const auto rate = [&](double amount) {
    return benchmark::Counter(amount, benchmark::Counter::kIsIterationInvariantRate);
  };
  const double ops = kernel.work.int8_ops + kernel.work.float_ops;
  if (ops > 0.0) state.counters["ops"] = rate(ops);
  if (kernel.work.bytes > 0.0) state.counters["bytes"] = rate(kernel.work.bytes);
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
  const std::unique_ptr<Backend> backend = MakeCpuBackend({.threads = threads, .isa = *isa});
  const std::vector<KernelCase> cases = KernelCases({.config = *BenchModelConfig("mixtral-8x7b", 0),
                                                     .tokens = {1, 8, 64, 512},
                                                     .contexts = {1024, 8192}});
  for (const KernelCase& c : cases) {
    const std::string name = c.op + "/" + c.shape + "/" + std::to_string(c.tokens);
    benchmark::RegisterBenchmark(name.c_str(), [&backend, &c](benchmark::State& s) {
      RunCase(s, *backend, c);
    })->UseRealTime();
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace intermix

int main(int argc, char** argv) { return intermix::Main(argc, argv); }
