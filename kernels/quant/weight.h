// QuantizedWeight: the canonical form of one linear layer's weight [N, K] (numerics.md, "Weights"),
// as it stands in a checkpoint; Backend::Prepack turns it into what the kernels eat.
// A value type: copies share the memory through `owner`. Immutable after it was made.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/core/tensor.h"

namespace intermix {

enum class Scheme : uint8_t {
  kNone,     // weights as they are (float32 or bfloat16), activations float32
  kFloat,    // int codes, float32 group scales: the paper's baseline
  kInteger,  // int codes, integer group scales, float32 channel scale
};

// How wide the integer group scales are; only meaningful for Scheme::kInteger.
enum class ScaleWidth : uint8_t {
  kFolded,  // I in 0..15 and |q * I| <= 120: the product is itself an int8 weight
  kWide,    // int16, may be negative
};

// What one quantised tensor holds; everything a kernel needs to choose its path.
struct WeightFormat {
  Scheme scheme = Scheme::kInteger;
  ScaleWidth scale_width = ScaleWidth::kFolded;
  int bits = 4;              // 4 or 8; of the codes
  int64_t group_size = 128;  // along K; equal to K where a row is one group

  friend bool operator==(const WeightFormat&, const WeightFormat&) = default;
  std::string ToString() const;  // "integer folded W4 g128"
};

struct QuantizedWeight {
  WeightFormat format;
  int64_t n = 0;          // out features
  int64_t k = 0;          // in features
  Tensor codes;           // kNone: [N, K] float32 or bfloat16. bits 8: [N, K] int8.
                          // bits 4: [N, K/2] uint8, even k in the low nibble, two's complement
  Tensor group_scales;    // kInteger: [N, K/g] int16. kFloat: [N, K/g] float32. kNone: empty
  Tensor channel_scales;  // kInteger: [N] float32, else empty
  std::shared_ptr<const void> owner;  // keeps the memory behind the views alive

  int64_t num_groups() const { return format.scheme == Scheme::kNone ? 0 : k / format.group_size; }
  int64_t bytes() const { return codes.bytes() + group_scales.bytes() + channel_scales.bytes(); }
  // Out features [begin, end): views, no copy. This is how tensor parallelism shards a layer.
  QuantizedWeight RowSlice(int64_t begin, int64_t end) const;
};

// Code q[n, k] of a bits = 4 or 8 weight.
int CodeAt(const QuantizedWeight& weight, int64_t n, int64_t k);

// All codes of row n, faster than one by one: codes [K].
void UnpackCodes(const QuantizedWeight& weight, int64_t n, int8_t* codes);

}  // namespace intermix
