#include "runtime/model/rope.h"

#include <cmath>
#include <numbers>
#include <vector>

namespace intermix {
namespace {

// LLaMA 3.1: long wavelengths are slowed by `factor`, short ones kept, those between blended.
double Llama3Frequency(double frequency, const RopeScaling& scaling) {
  const double context = static_cast<double>(scaling.original_max_position_embeddings);
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  if (wavelength < context / scaling.high_freq_factor) return frequency;
  if (wavelength > context / scaling.low_freq_factor) return frequency / scaling.factor;
  const double smooth = (context / wavelength - scaling.low_freq_factor) /
                        (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0 - smooth) * frequency / scaling.factor + smooth * frequency;
}

double ScaledFrequency(double frequency, const RopeScaling& scaling) {
  switch (scaling.type) {
    case RopeScaling::Type::kDefault:
      return frequency;
    case RopeScaling::Type::kLinear:
      return frequency / scaling.factor;
    case RopeScaling::Type::kLlama3:
      return Llama3Frequency(frequency, scaling);
  }
  return frequency;
}

}  // namespace

OwnedTensor MakeRopeTable(const ModelConfig& config, int64_t positions) {
  const int64_t half = config.head_dim / 2;
  std::vector<double> frequencies;
  for (int64_t i = 0; i < half; ++i) {
    const double exponent = static_cast<double>(i) / static_cast<double>(half);
    frequencies.push_back(
        ScaledFrequency(std::pow(config.rope_theta, -exponent), config.rope_scaling));
  }
  OwnedTensor table = OwnedTensor::Host(DType::kF32, {positions, config.head_dim});
  for (int64_t p = 0; p < positions; ++p) {
    float* row = table.view.row<float>(p);
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequencies[i];
      row[i] = static_cast<float>(std::cos(angle));
      row[half + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

}  // namespace intermix
