// The `quantization_config` object that a quantised directory's config.json carries.
//
//   {"quant_method": "intermix", "format_version": 1, "scheme": "integer", "bits": 4,
//    "lm_head_bits": 8, "group_size": 128, "scales": "auto", "amplifier": "channel",
//    "scale_width": {"model.layers.0.self_attn.q_proj": "folded", ...}}
//
// group_size 0 is one group for a whole row. scale_width names every linear layer of the integer
// scheme, as auto decides for each; other schemes have none.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/quant/integer_scale.h"
#include "kernels/quant/weight.h"
#include "nlohmann/json_fwd.hpp"

namespace intermix {

struct QuantizationConfig {
  static constexpr char kMethod[] = "intermix";
  static constexpr int64_t kFormatVersion = 1;

  QuantSpec spec;
  std::map<std::string, ScaleWidth> scale_width;  // by layer

  nlohmann::json ToJson() const;

  // INVALID_ARGUMENT: another method, a newer format version, a field that is missing or illegal.
  static absl::StatusOr<QuantizationConfig> FromJson(const nlohmann::json& json);

  // The format of linear layer `layer` with `k` in features.
  //   INVALID_ARGUMENT where scale_width lacks it.
  absl::StatusOr<WeightFormat> FormatOf(const std::string& layer, int64_t k) const;

  // "integer folded/wide W4 g128": what the layers (but lm_head) are, for people.
  std::string Description() const;
};

// The names that options and files use: "integer", "auto", "channel", ...
std::string SchemeName(Scheme scheme);
std::string ScaleChoiceName(ScaleChoice choice);
std::string AmplifierName(const Amplifier& amplifier);
absl::StatusOr<Scheme> ParseScheme(const std::string& name);
absl::StatusOr<ScaleChoice> ParseScaleChoice(const std::string& name);
absl::StatusOr<Amplifier> ParseAmplifier(const std::string& name);  // or a power of two

}  // namespace intermix
