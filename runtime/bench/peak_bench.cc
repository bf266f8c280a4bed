#include "runtime/bench/peak_bench.h"

#include <string>
#include <utility>

namespace intermix {

std::vector<Table> BenchLimits(TurnTimer& timer) {
  Table table{.title = "limits", .columns = {"limit", "of", "rate", "unit", "spread %"}};
  for (const TurnTimer::LimitRate& measured : timer.MeasureLimits()) {
    const bool bytes = measured.limit->resource == Resource::kBytes;
    table.rows.push_back({std::string(Name(measured.limit->resource)), measured.limit->name,
                          measured.rate * (bytes ? 1e-9 : 1e-12), bytes ? "GB/s" : "TOPS",
                          100.0 * measured.spread});
  }
  return {std::move(table)};
}

}  // namespace intermix
