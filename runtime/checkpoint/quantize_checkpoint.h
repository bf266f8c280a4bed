// Quantises a Hugging Face directory to disk, tensor by tensor: memory stays near two tensors, one
// that is quantised and one that is written.
// The rows that come out are those that serving the original directory would compute.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/quant/integer_scale.h"

namespace intermix {

struct QuantizeProgress {
  int64_t bytes_done = 0;  // of the original's tensors
  int64_t bytes_total = 0;
  std::string tensor;  // that was just finished
};

struct QuantizeOptions {
  std::string model_directory;
  std::string out_directory;
  QuantSpec spec;
  bool force = false;  // replace an earlier quantised model at out_directory
  std::function<void(const QuantizeProgress&)> progress;  // may be empty
  std::function<bool()> cancelled;                        // asked between tensors; may be empty
};

struct QuantizeSummary {
  int64_t num_linear = 0;  // tensors that were quantised
  int64_t num_folded = 0;  // of them, with folded scales
  int64_t num_other = 0;   // tensors that were copied
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  double relative_squared_error = 0;  // over all linear layers: sum (w - q)^2 / sum w^2
  std::string description;            // "integer folded/wide W4 g128"
};

// out_directory appears when it is complete, and not at all after an error or a cancellation.
//   INVALID_ARGUMENT, NOT_FOUND: what OpenCheckpoint and Quantize refuse; a directory that is
//   quantised already; an out_directory that may not be replaced.  UNAVAILABLE: the disk.
//   CANCELLED: `cancelled` returned true.
absl::StatusOr<QuantizeSummary> QuantizeCheckpoint(const QuantizeOptions& options);

}  // namespace intermix
