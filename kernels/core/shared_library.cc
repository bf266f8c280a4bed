#include "kernels/core/shared_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace intermix {

absl::StatusOr<SharedLibrary> SharedLibrary::Open(const std::string& symbol,
                                                  const std::vector<std::string>& files) {
  if (dlsym(RTLD_DEFAULT, symbol.c_str()) != nullptr) {
    return SharedLibrary(dlopen(nullptr, RTLD_NOW), "the program");
  }
  std::string problem;
  for (const std::string& file : files) {
    if (void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      return SharedLibrary(handle, file);
    }
    if (problem.empty()) problem = dlerror();
  }
  return absl::UnavailableError(
      absl::StrCat("cannot open ", files.empty() ? symbol : files.front(), ": ", problem));
}

absl::StatusOr<void*> SharedLibrary::FindAddress(const std::string& name) const {
  if (void* address = dlsym(handle_, name.c_str())) return address;
  return absl::UnavailableError(absl::StrCat(file_, " is too old: it has no ", name));
}

}  // namespace intermix
