// Invariant checks: a broken one is a bug in Intermix, so the process prints the values and aborts.
// Bad input, files and requests are never CHECKed; they return absl::Status.
//
// Before aborting, an abort hook runs (launch installs one that calls MPI_Abort), so that no peer
// rank is left waiting in a collective. Any thread may fail a CHECK.
#pragma once

#include <functional>
#include <sstream>
#include <string>

namespace intermix {

// Called once, on the failing thread, with the whole message, just before abort().
void SetAbortHook(std::function<void(const std::string& message)> hook);

// Begins every message from now on: "rank 3". Set before threads are started.
void SetFatalLabel(const std::string& label);

// Prints the message, runs the abort hook, aborts. For failures that no caller could handle.
[[noreturn]] void Fatal(const std::string& message);

namespace internal {

// Collects the streamed message of one failed CHECK; its destructor does not return.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

// Lets the CHECK macro be an expression statement of type void.
struct Voidify {
  void operator&(std::ostream&) const {}
};

}  // namespace internal
}  // namespace intermix

#define CHECK(condition)                          \
  (condition) ? (void)0                           \
              : ::intermix::internal::Voidify() & \
                    ::intermix::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define INTERMIX_CHECK_OP(a, op, b) CHECK((a)op(b)) << "(" << (a) << " vs " << (b) << ") "
#define CHECK_EQ(a, b) INTERMIX_CHECK_OP(a, ==, b)
#define CHECK_NE(a, b) INTERMIX_CHECK_OP(a, !=, b)
#define CHECK_LE(a, b) INTERMIX_CHECK_OP(a, <=, b)
#define CHECK_LT(a, b) INTERMIX_CHECK_OP(a, <, b)
#define CHECK_GE(a, b) INTERMIX_CHECK_OP(a, >=, b)
#define CHECK_GT(a, b) INTERMIX_CHECK_OP(a, >, b)
