#include "tests/testing/test_paths.h"

#include <cstdlib>

namespace intermix {
namespace {

std::string FromEnvironment(const char* name, const char* built) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : built;
}

}  // namespace

std::string TestData() { return FromEnvironment("INTERMIX_TEST_DATA", INTERMIX_BUILT_TEST_DATA); }
std::string IntermixBinary() { return FromEnvironment("INTERMIX_BINARY", INTERMIX_BUILT_BINARY); }
std::string MpiRun() { return FromEnvironment("INTERMIX_MPIRUN", INTERMIX_BUILT_MPIRUN); }

}  // namespace intermix
