// OrderedOutput: lines that are finished in any order and written in their own. A file gets its
// name when all is written; until then it is PATH.partial, which is what an interrupted run leaves.
// Thread-safe.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace intermix {

class OrderedOutput {
 public:
  // An empty path is stdout.  UNAVAILABLE naming the file.
  static absl::StatusOr<std::unique_ptr<OrderedOutput>> Open(const std::string& path);
  ~OrderedOutput();
  OrderedOutput(const OrderedOutput&) = delete;
  OrderedOutput& operator=(const OrderedOutput&) = delete;

  // Line `index`, counted from 0, without its newline. Once each.
  void Add(int64_t index, std::string line);

  // All lines were added: the file gets its name.  UNAVAILABLE naming the file.
  absl::Status Finish();
  // No more will come: writes also the lines that waited for earlier ones. Where they are.
  std::string Abandon();

 private:
  OrderedOutput(std::string path, std::FILE* file);
  void Write(const std::string& line);
  absl::Status Close();

  const std::string path_;
  const std::string partial_;
  std::mutex mutex_;
  std::FILE* file_;                         // guarded by mutex_, as what follows
  std::map<int64_t, std::string> waiting_;  // for earlier lines
  int64_t next_ = 0;
  bool failed_ = false;
};

}  // namespace intermix
