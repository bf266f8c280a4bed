// Where tests find their data and the program. Both may be moved together with the tests:
// environment variables go before what the build knew.
#pragma once

#include <string>

namespace intermix {

// tests/data: $INTERMIX_TEST_DATA, or that of the source tree.
std::string TestData();

// The program under test: $INTERMIX_BINARY, or that of the build.
std::string IntermixBinary();

// mpirun: $INTERMIX_MPIRUN, or that of the build.
std::string MpiRun();

}  // namespace intermix
