#include "launch/quant_options.h"

#include "runtime/checkpoint/quantization_config.h"

namespace intermix {

QuantOptions::QuantOptions() {
  const QuantSpec spec;
  scheme = SchemeName(spec.scheme);
  bits = spec.bits;
  group_size = spec.group_size;
  scales = ScaleChoiceName(spec.scales);
  amplifier = AmplifierName(spec.amplifier);
  clip_search = spec.clip_search;
}

absl::StatusOr<QuantSpec> QuantOptions::Spec() const {
  QuantSpec spec{.bits = bits, .group_size = group_size, .clip_search = clip_search};
  const absl::StatusOr<Scheme> parsed_scheme = ParseScheme(scheme);
  if (!parsed_scheme.ok()) return parsed_scheme.status();
  spec.scheme = *parsed_scheme;
  const absl::StatusOr<ScaleChoice> parsed_scales = ParseScaleChoice(scales);
  if (!parsed_scales.ok()) return parsed_scales.status();
  spec.scales = *parsed_scales;
  const absl::StatusOr<Amplifier> parsed_amplifier = ParseAmplifier(amplifier);
  if (!parsed_amplifier.ok()) return parsed_amplifier.status();
  spec.amplifier = *parsed_amplifier;
  if (absl::Status s = spec.Validate(); !s.ok()) return s;
  return spec;
}

void AddKvDTypeOption(CLI::App& command, DType& dtype) {
  command
      .add_option_function<std::string>(
          "--kv-dtype",
          [&dtype](const std::string& name) { dtype = name == "int8" ? DType::kI8 : DType::kBF16; },
          "What the KV cache holds: bf16, or int8, which holds nearly twice as many tokens")
      ->check(CLI::IsMember({"bf16", "int8"}))
      ->default_str("bf16")
      ->group("Quantisation");
}

void AddQuantOptions(CLI::App& command, QuantOptions& options) {
  const std::string group = "Quantisation";
  command.add_option("--scheme", options.scheme, "integer, float (the baseline) or none")
      ->capture_default_str()
      ->group(group);
  command.add_option("--bits", options.bits, "of a weight: 4 or 8")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--group-size", options.group_size,
                  "weights that share a scale: 32, 64, 128, or 0 for a whole row")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--scales", options.scales,
                  "integer scales: folded (0..15), wide (16 bits), or auto, which decides by error")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--amplifier", options.amplifier,
                  "of wide scales: channel, heuristic, or a power of two")
      ->capture_default_str()
      ->group(group);
  command
      .add_flag("--clip-search", options.clip_search,
                "shrink each group's range where that lowers its error (slower)")
      ->group(group);
}

}  // namespace intermix
