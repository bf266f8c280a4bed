#include "launch/port_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace intermix {

absl::Status WritePortFile(const std::string& path, const ListenAddress& address) {
  if (path.empty()) return absl::OkStatus();
  const std::string temporary = path + ".part";
  std::ofstream file(temporary);
  file << address.ToString() << "\n";
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot write --port-file ", path, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace intermix
