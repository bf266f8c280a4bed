// A libFuzzer target (INTERMIX_BUILD_FUZZERS, clang): any bytes as a tokenizer.model.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  intermix::fuzz::Tokenizer({data, size});
  return 0;
}
