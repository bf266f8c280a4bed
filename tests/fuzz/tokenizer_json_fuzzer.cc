// A libFuzzer target (INTERMIX_BUILD_FUZZERS, clang): any bytes as a tokenizer.json.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  intermix::fuzz::TokenizerJson({data, size});
  return 0;
}
