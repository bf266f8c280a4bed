# intermix_emulated_kernels(file ...): compiles these sources of the current directory's targets as
# C++ for the emulator: every load and store calls __tsan_*, every access through a pointer checks
# the alignment of its type, and both calls end in tests/emulator, not in a sanitizer's library.
# Targets that hold such sources link intermix_emulator.
#   -fno-thread-jumps  keeps each barrier of the source one call, so that its place can be compared
function(intermix_emulated_kernels)
  set(options -O2 -g1 -Wno-unknown-pragmas -fsanitize=thread -fsanitize=alignment)
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    list(APPEND options -fno-thread-jumps -U__SANITIZE_THREAD__
      --param=tsan-instrument-func-entry-exit=0)
  else()
    list(APPEND options "SHELL:-mllvm -tsan-instrument-func-entry-exit=0")
  endif()
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${options}")
endfunction()
