// The options that say how numbers are stored: of weights --scheme, --bits, --group-size, --scales,
// --amplifier, --clip-search, shared by every command that may quantise; of the KV cache
// --kv-dtype.
#pragma once

#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "kernels/core/dtype.h"
#include "kernels/quant/integer_scale.h"

namespace intermix {

// The options as they stand on the command line; defaults are QuantSpec's.
struct QuantOptions {
  std::string scheme;
  int bits = 0;
  int64_t group_size = 0;
  std::string scales;
  std::string amplifier;
  bool clip_search = false;

  QuantOptions();

  // INVALID_ARGUMENT with the option that is wrong.
  absl::StatusOr<QuantSpec> Spec() const;
};

// Adds the options to `command`; `options` outlives the parsing.
// --kv-dtype bf16|int8; `dtype` outlives the parse.
void AddKvDTypeOption(CLI::App& command, DType& dtype);

void AddQuantOptions(CLI::App& command, QuantOptions& options);

}  // namespace intermix
