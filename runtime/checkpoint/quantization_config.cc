#include "runtime/checkpoint/quantization_config.h"

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint/model_tensors.h"
#include "runtime/model/json_fields.h"

namespace intermix {
namespace {

using nlohmann::json;

constexpr char kFolded[] = "folded";
constexpr char kWide[] = "wide";

absl::Status Unknown(const std::string& option, const std::string& value,
                     const std::string& legal) {
  return absl::InvalidArgumentError(
      absl::StrCat(option, " ", ShortText(json(value)), " is not one of ", legal));
}

// Reads a name through its parser into `out`; keeps the parser's error in `fields`.
template <typename T>
void ReadName(JsonFields& fields, const std::string& name,
              absl::StatusOr<T> (*parse)(const std::string&), T& out) {
  const std::string text = fields.String(name);
  if (!fields.status().ok()) return;
  absl::StatusOr<T> value = parse(text);
  if (value.ok()) {
    out = *value;
  } else {
    fields.Fail(std::string(value.status().message()));
  }
}

void ReadScaleWidths(JsonFields& fields, std::map<std::string, ScaleWidth>& widths) {
  const json* object = fields.Find("scale_width");
  if (object == nullptr || !object->is_object()) {
    fields.Fail("scale_width is missing");
    return;
  }
  for (const auto& [layer, width] : object->items()) {
    if (width != kFolded && width != kWide) {
      fields.Fail(absl::StrCat("scale_width of ", ShortText(json(layer)), " is ", ShortText(width),
                               ", neither folded nor wide"));
      return;
    }
    widths[layer] = width == kFolded ? ScaleWidth::kFolded : ScaleWidth::kWide;
  }
}

}  // namespace

json QuantizationConfig::ToJson() const {
  json result = {{"quant_method", kMethod},
                 {"format_version", kFormatVersion},
                 {"scheme", SchemeName(spec.scheme)}};
  if (spec.scheme == Scheme::kNone) return result;
  result["bits"] = spec.bits;
  result["lm_head_bits"] = SpecForLayer(spec, kLmHead).bits;
  result["group_size"] = spec.group_size;
  if (spec.scheme != Scheme::kInteger) return result;
  result["scales"] = ScaleChoiceName(spec.scales);
  result["amplifier"] = AmplifierName(spec.amplifier);
  json& widths = result["scale_width"] = json::object();
  for (const auto& [layer, width] : scale_width) {
    widths[layer] = width == ScaleWidth::kFolded ? kFolded : kWide;
  }
  return result;
}

absl::StatusOr<QuantizationConfig> QuantizationConfig::FromJson(const json& object) {
  JsonFields fields(object, "config.json: quantization_config");
  const std::string method = fields.String("quant_method", "");
  if (method != kMethod) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: the model is quantised by ", ShortText(json(method)),
                     ", which is not supported; use the original or a directory written by "
                     "`intermix quantize`"));
  }
  const int64_t version = fields.Integer("format_version", 1, INT64_MAX);
  if (version > kFormatVersion) {
    fields.Fail(absl::StrCat("format_version ", version, " is newer than this program's ",
                             kFormatVersion, "; update it or quantise again"));
  }
  QuantizationConfig config;
  QuantSpec& spec = config.spec;
  ReadName(fields, "scheme", &ParseScheme, spec.scheme);
  if (fields.status().ok() && spec.scheme != Scheme::kNone) {
    spec.bits = static_cast<int>(fields.Integer("bits", 4, 8));
    spec.group_size = fields.Integer("group_size", 0, 128);
    fields.Integer("lm_head_bits", 8, 8);
  }
  if (fields.status().ok() && spec.scheme == Scheme::kInteger) {
    ReadName(fields, "scales", &ParseScaleChoice, spec.scales);
    ReadName(fields, "amplifier", &ParseAmplifier, spec.amplifier);
    ReadScaleWidths(fields, config.scale_width);
  }
  if (!fields.status().ok()) return fields.status();
  if (absl::Status s = spec.Validate(); !s.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: quantization_config: ", s.message()));
  }
  return config;
}

absl::StatusOr<WeightFormat> QuantizationConfig::FormatOf(const std::string& layer,
                                                          int64_t k) const {
  if (spec.scheme == Scheme::kNone) return WeightFormat{.scheme = Scheme::kNone};
  const QuantSpec layer_spec = SpecForLayer(spec, layer);
  WeightFormat format{.scheme = spec.scheme,
                      .scale_width = ScaleWidth::kWide,
                      .bits = layer_spec.bits,
                      .group_size = layer_spec.group_size == 0 ? k : layer_spec.group_size};
  if (spec.scheme != Scheme::kInteger) return format;
  const auto it = scale_width.find(layer);
  if (it == scale_width.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: quantization_config: scale_width lacks layer ", layer));
  }
  format.scale_width = it->second;
  if (format.bits == 8 && format.scale_width == ScaleWidth::kFolded) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: quantization_config: layer ",
                                                   layer, " has 8 bits and folded scales"));
  }
  return format;
}

std::string QuantizationConfig::Description() const {
  if (spec.scheme == Scheme::kNone) return "not quantised";
  bool folded = false;
  bool wide = false;
  for (const auto& [layer, width] : scale_width) {
    if (layer == kLmHead || spec.scheme != Scheme::kInteger) continue;
    (width == ScaleWidth::kFolded ? folded : wide) = true;
  }
  const std::string widths = folded && wide ? " folded/wide"
                             : folded       ? " folded"
                             : wide         ? " wide"
                                            : "";
  const std::string group = spec.group_size == 0 ? "row" : absl::StrCat("g", spec.group_size);
  return absl::StrCat(SchemeName(spec.scheme), widths, " W", spec.bits, " ", group);
}

std::string SchemeName(Scheme scheme) {
  switch (scheme) {
    case Scheme::kNone:
      return "none";
    case Scheme::kFloat:
      return "float";
    case Scheme::kInteger:
      return "integer";
  }
  return "?";
}

std::string ScaleChoiceName(ScaleChoice choice) {
  switch (choice) {
    case ScaleChoice::kAuto:
      return "auto";
    case ScaleChoice::kFolded:
      return kFolded;
    case ScaleChoice::kWide:
      return kWide;
  }
  return "?";
}

std::string AmplifierName(const Amplifier& amplifier) {
  switch (amplifier.kind) {
    case Amplifier::Kind::kChannel:
      return "channel";
    case Amplifier::Kind::kHeuristic:
      return "heuristic";
    case Amplifier::Kind::kFixed:
      return absl::StrCat(amplifier.value);
  }
  return "?";
}

absl::StatusOr<Scheme> ParseScheme(const std::string& name) {
  for (Scheme scheme : {Scheme::kInteger, Scheme::kFloat, Scheme::kNone}) {
    if (name == SchemeName(scheme)) return scheme;
  }
  return Unknown("scheme", name, "integer, float, none");
}

absl::StatusOr<ScaleChoice> ParseScaleChoice(const std::string& name) {
  for (ScaleChoice choice : {ScaleChoice::kAuto, ScaleChoice::kFolded, ScaleChoice::kWide}) {
    if (name == ScaleChoiceName(choice)) return choice;
  }
  return Unknown("scales", name, "auto, folded, wide");
}

absl::StatusOr<Amplifier> ParseAmplifier(const std::string& name) {
  for (Amplifier::Kind kind : {Amplifier::Kind::kChannel, Amplifier::Kind::kHeuristic}) {
    if (name == AmplifierName({.kind = kind})) return Amplifier{.kind = kind};
  }
  int64_t value = 0;
  if (absl::SimpleAtoi(name, &value) && value > 0 && (value & (value - 1)) == 0) {
    return Amplifier{.kind = Amplifier::Kind::kFixed, .value = value};
  }
  return Unknown("amplifier", name, "channel, heuristic, or a power of two");
}

}  // namespace intermix
