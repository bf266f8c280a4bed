// SharedLibrary: a library that is opened at run time, so that one binary runs on hosts with and
// without it. Never closed: libraries of GPU vendors do not survive that. A value; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace intermix {

class SharedLibrary {
 public:
  // The first of `files` that can be opened; or the program itself, if it has `symbol` already.
  //   UNAVAILABLE: none can; says why the first could not.
  static absl::StatusOr<SharedLibrary> Open(const std::string& symbol,
                                            const std::vector<std::string>& files);

  // Sets `function` to what the library calls `name`.
  //   UNAVAILABLE: it has no such function; it is too old.
  template <typename Function>
  absl::Status Find(const std::string& name, Function** function) const {
    absl::StatusOr<void*> address = FindAddress(name);
    if (!address.ok()) return address.status();
    *function = reinterpret_cast<Function*>(*address);
    return absl::OkStatus();
  }

 private:
  SharedLibrary(void* handle, std::string file) : handle_(handle), file_(std::move(file)) {}
  absl::StatusOr<void*> FindAddress(const std::string& name) const;

  void* handle_;
  std::string file_;
};

}  // namespace intermix
