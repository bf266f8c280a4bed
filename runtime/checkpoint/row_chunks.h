// Work on the rows of a tensor, chunk by chunk, on as many threads as this process has CPUs.
// Chunks depend on the tensor alone, never on the thread count: sums over them have one order.
#pragma once

#include <cstdint>
#include <functional>

#include "comm/sharding.h"

namespace intermix {

// Rows of `k` elements that make a chunk: enough to be worth handing out, few enough for a cache.
int64_t RowsPerChunk(int64_t k);

// Runs body(chunk, rows) for chunk 0, 1, .. of [0, n), each of `rows_per_chunk` rows but the last;
// returns when all are done. Several at once, in any order.
void ForEachChunk(int64_t n, int64_t rows_per_chunk,
                  const std::function<void(int64_t chunk, Slice rows)>& body);

}  // namespace intermix
