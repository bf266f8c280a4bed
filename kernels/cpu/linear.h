// Linear: runs plain and grouped GEMMs of CpuBackend. It packs the activations once, cuts the work
// into items (expert, weight part, rows, 16-row blocks) and hands them to the threads.
// Keeps scratch memory that grows to the largest step seen. One thread at a time, like its Backend.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/packed_weight.h"

namespace intermix::cpu {

class Linear {
 public:
  // `pool` must outlive it.
  Linear(const Kernels& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

  // See Backend::GroupedGemm; a plain GEMM is one of a single expert.
  void Run(const Activations& x, std::span<const PackedWeight* const> weights,
           std::span<const int32_t> row_offsets, const Tensor& y);

  // See Backend::GatedGemm. Gate and up of one group size meet in each thread's scratch memory;
  // others, and unquantised ones, pass through memory as float32.
  void RunGated(const Activations& x, std::span<const PackedWeight* const> weights,
                std::span<const int32_t> row_offsets, const Tensor& hidden);

 private:
  // One weight part applied to one expert's rows.
  struct Segment {
    const CpuPackedWeight::Part* part = nullptr;
    const CpuPackedWeight::Part* up = nullptr;  // gated: `part` is the gate
    QuantRows rows;
    QuantOutput out;
    Tensor x;                  // unquantised: [rows, K]
    int64_t row_chunks = 1;    // items are row_chunks x block_chunks ...
    int64_t block_chunks = 1;  // ... of blocks_per_chunk 16-row blocks
    int64_t blocks_per_chunk = 1;
    int64_t first_item = 0;

    int64_t num_items() const { return row_chunks * block_chunks; }
    int64_t num_blocks() const { return (part->n + kBlockRows - 1) / kBlockRows; }
    // The most outputs of one part that an item makes.
    int64_t item_outputs() const;
  };
  // What one item of a segment makes.
  struct ItemRange {
    int64_t tile_begin = 0;
    int64_t tile_end = 0;
    int64_t block_begin = 0;
    int64_t block_end = 0;
  };
  // Tiles of one expert's rows.
  struct PackJob {
    int64_t row_begin = 0;
    QuantRows rows;
    int64_t first_tile = 0;
  };

  // Few enough rows for run_tile.
  bool Streamed(int64_t rows) const { return rows <= kernels_.gemm.streamed_rows; }
  // Checks a call and notes its group sizes.
  void Begin(const Activations& x, std::span<const PackedWeight* const> weights,
             std::span<const int32_t> row_offsets, int64_t out_features);
  //   gated  y is of GatedGemm, and all parts have this group size
  void RunQuantized(const Activations& x, std::span<const PackedWeight* const> weights,
                    std::span<const int32_t> row_offsets, int64_t group_size, const Tensor& y,
                    bool gated);
  void RunUnquantized(const Activations& x, std::span<const PackedWeight* const> weights,
                      std::span<const int32_t> row_offsets, const Tensor& y);
  void PackActivations(const Activations& x, std::span<const int32_t> row_offsets,
                       int64_t group_size);
  // Of weights, in an item of a few rows.
  int64_t ItemBytes(std::span<const PackedWeight* const> weights) const;
  void AddSegment(Segment segment);
  void RunSegments(int64_t work);
  void RunQuantizedItem(const Segment& segment, int64_t item, int worker);
  void RunPart(const QuantPart& part, const QuantRows& rows, const ItemRange& range, int worker,
               const QuantOutput& out);
  void RunGatedItem(const Segment& segment, const ItemRange& range, int worker);
  void RunUnquantizedItem(const Segment& segment, int64_t item);
  int64_t PanelBytes() const;  // of a worker's PanelScratch
  PanelScratch ScratchOf(int worker) const;

  const Kernels kernels_;
  ThreadPool& pool_;
  std::vector<int64_t> group_sizes_;  // of the call at hand
  std::vector<Segment> segments_;
  std::vector<PackJob> jobs_;  // one for each expert, rows or none
  Buffer tiles_;               // [tokens, padded K] int8
  Buffer sums_;                // [tokens, groups + 1] int32
  Buffer panels_;              // PanelScratch of each worker
  int64_t panel_weight_bytes_ = 0;
  Buffer gated_;  // of each worker: what an item's gate and up give; or of all rows
  int64_t gated_floats_ = 0;
};

}  // namespace intermix::cpu
