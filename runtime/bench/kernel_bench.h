// `bench kernels`: every op over the shape list, beside the device's limits. One thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/bench/kernel_cases.h"
#include "runtime/bench/table.h"
#include "runtime/bench/turn_timer.h"

namespace intermix {

// Called before each case is measured: cases done, cases in all, and which comes now.
using KernelProgress = std::function<void(size_t done, size_t total, const std::string& what)>;

// One table, "kernels": a row for each case whose "op shape" contains `filter`.
std::vector<Table> BenchKernels(const std::vector<KernelCase>& cases, const std::string& filter,
                                Backend& backend, TurnTimer& timer, const KernelProgress& progress);

}  // namespace intermix
