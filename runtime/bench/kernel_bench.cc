#include "runtime/bench/kernel_bench.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

// An empty cell where there is nothing to say.
Cell Positive(double value) {
  return value > 0.0 ? value : std::numeric_limits<double>::quiet_NaN();
}

std::vector<Cell> RowOf(const KernelCase& c, const Work& work, const Measurement& m) {
  std::vector<Cell> row = {c.op,
                           c.shape,
                           static_cast<double>(c.tokens),
                           1e6 * m.seconds,
                           100.0 * m.spread,
                           Positive(1e-12 * (work.int8_ops + work.float_ops) / m.seconds),
                           Positive(1e-9 * work.bytes / m.seconds)};
  for (const double fraction : m.fractions) row.push_back(Positive(100.0 * fraction));
  return row;
}

}  // namespace

std::vector<Table> BenchKernels(const std::vector<KernelCase>& cases, const std::string& filter,
                                Backend& backend, TurnTimer& timer,
                                const KernelProgress& progress) {
  std::vector<const KernelCase*> chosen;
  for (const KernelCase& c : cases) {
    if (absl::StrCat(c.op, " ", c.shape).find(filter) != std::string::npos) chosen.push_back(&c);
  }
  Table table{.title = "kernels",
              .columns = {"op", "shape", "tokens", "us", "spread %", "TOPS", "GB/s", "% of int8",
                          "% of float", "% of memory"}};
  for (size_t i = 0; i < chosen.size(); ++i) {
    const KernelCase& c = *chosen[i];
    if (progress) {
      progress(i, chosen.size(), absl::StrCat(c.op, " ", c.shape, ", ", c.tokens, " tokens"));
    }
    const PreparedKernel kernel = c.prepare(backend);
    table.rows.push_back(RowOf(c, kernel.work, timer.Measure(kernel.work, kernel.run)));
  }
  return {std::move(table)};
}

}  // namespace intermix
