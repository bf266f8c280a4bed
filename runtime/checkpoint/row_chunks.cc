#include "runtime/checkpoint/row_chunks.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "kernels/core/thread_pool.h"

namespace intermix {
namespace {

constexpr int64_t kChunkElements = int64_t{1} << 18;

int NumThreads() {
  constexpr int kMaxThreads = 64;
  return std::min(NumAllowedCpus(), kMaxThreads);
}

}  // namespace

int64_t RowsPerChunk(int64_t k) {
  return std::max<int64_t>(1, kChunkElements / std::max<int64_t>(k, 1));
}

void ForEachChunk(int64_t n, int64_t rows_per_chunk,
                  const std::function<void(int64_t chunk, Slice rows)>& body) {
  const int64_t num_chunks = (n + rows_per_chunk - 1) / rows_per_chunk;
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t chunk = next++; chunk < num_chunks; chunk = next++) {
      body(chunk,
           {.begin = chunk * rows_per_chunk, .end = std::min(n, (chunk + 1) * rows_per_chunk)});
    }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < std::min<int64_t>(NumThreads(), num_chunks); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace intermix
