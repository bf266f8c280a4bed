#include "kernels/core/check.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <utility>

namespace intermix {
namespace {

std::mutex hook_mutex;

std::function<void(const std::string&)>& Hook() {
  static std::function<void(const std::string&)> hook;
  return hook;
}

std::string& Label() {
  static std::string label;
  return label;
}

}  // namespace

void SetFatalLabel(const std::string& label) { Label() = label.empty() ? "" : label + ": "; }

void SetAbortHook(std::function<void(const std::string& message)> hook) {
  const std::lock_guard lock(hook_mutex);
  Hook() = std::move(hook);
}

void Fatal(const std::string& message) {
  std::fprintf(stderr, "intermix: %sfatal: %s\n", Label().c_str(), message.c_str());
  std::fflush(stderr);
  std::function<void(const std::string&)> hook;
  {
    const std::lock_guard lock(hook_mutex);
    hook = std::exchange(Hook(), nullptr);
  }
  if (hook) hook(message);
  std::abort();
}

namespace internal {

CheckFailure::CheckFailure(const char* file, int line, const char* condition) {
  stream_ << file << ":" << line << ": CHECK failed: " << condition << " ";
}

CheckFailure::~CheckFailure() { Fatal(stream_.str()); }

}  // namespace internal
}  // namespace intermix
