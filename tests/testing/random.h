// Seeded test data: the same seed gives the same tensor on every machine.
// A Random is used by one thread; the functions are thread-safe.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>

#include "kernels/backend.h"
#include "kernels/core/buffer.h"
#include "kernels/quant/weight.h"

namespace intermix {

// The standard's engine is specified to the bit, its distributions are not, so these are our own.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t Int(int64_t low, int64_t high);  // uniform in [low, high]
  double Uniform();                        // in [0, 1)
  double Gaussian();                       // mean 0, variance 1
  double StudentT4();                      // heavy tails: Student's t with 4 degrees of freedom

 private:
  std::mt19937_64 engine_;
};

// Gaussian values times `stddev`; dtype float32, bfloat16 or float16 bits.
OwnedTensor RandomTensor(DType dtype, std::initializer_list<int64_t> shape, uint64_t seed,
                         double stddev = 1.0);

// Uniform in [low, high].
OwnedTensor RandomInts(std::initializer_list<int64_t> shape, int32_t low, int32_t high,
                       uint64_t seed);

// Gaussian float32 or bfloat16 rows with the values that break row kernels: rows 3 .. 9 (if there
// are as many) are a zero row, rows with a NaN, with infinities, with subnormals, and with values
// at the edge of rounding.
OwnedTensor HostileRows(DType dtype, int64_t tokens, int64_t width, uint64_t seed);

// float32 rows that are hard to put in order. Row r holds (r % 8): Gaussian values; few different
// ones, -0 and 0 among them; an ascending row; a descending one; nothing but -infinity; such a row
// with one finite element; a few NaNs and infinities; more NaNs than anyone asks for.
OwnedTensor RowsWithTies(int64_t rows, int64_t width, uint64_t seed);

// x[row, col] = value, rounded where x is bfloat16.
void PutValue(const Tensor& x, int64_t row, int64_t col, float value);

// How hard a random weight or activation tries to break an integer kernel.
enum class Content : uint8_t {
  kRandom,   // all codes and scales of the format, negative wide scales and zero groups among them
  kExtreme,  // only the largest codes, scales at the edge of the overflow certificate
};

// A valid weight [n, k] of any format: it satisfies the overflow certificate. Row r of kExtreme
// holds (r % 4): the lowest code, the highest code, either by chance, either with a few zero
// groups.
//   unquantized  dtype of the values under Scheme::kNone: float32 or bfloat16
QuantizedWeight RandomWeight(const WeightFormat& format, int64_t n, int64_t k, uint64_t seed,
                             Content content = Content::kRandom, DType unquantized = DType::kF32);

// Rows for a linear layer, and the memory behind them.
struct OwnedActivations {
  OwnedTensor values;
  OwnedTensor scales;  // empty view where values are float32
  Activations view() const { return {.values = values.view, .scales = scales.view}; }
};

// Rows that fit a weight of `scheme`: [tokens, k]. Row r of kExtreme holds (r % 4): all -127, all
// 127, either by chance, zeros with a NaN scale (what a row with a NaN becomes).
OwnedActivations RandomActivations(Scheme scheme, int64_t tokens, int64_t k, uint64_t seed,
                                   Content content = Content::kRandom);

}  // namespace intermix
