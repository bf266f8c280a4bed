// Where violations go: standard error and abort(), or the Report of a test.
#pragma once

#include <string>

#include "tests/emulator/emulator.h"

namespace emu {

// Fatal unless a Report lives; then it is recorded and this returns.
void Violate(Violation kind, const std::string& message);
// "kernel NAME, block (x, y, z), thread (x, y, z)" of the running thread; "host" outside of one.
std::string Where();
// The name of a function of this program, demangled, or its address.
std::string FunctionName(const void* function);

}  // namespace emu
