// OutputDirectory: a directory that appears complete or not at all. Files are written into
// `<path>.partial`; Commit gives it its name; without Commit it is removed. A lock on it keeps two
// programs from writing one directory; what a killed one left behind is cleared away by the next.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace intermix {

// The files beside config and weights that a directory takes over from the one it is made of.
inline constexpr std::array<std::string_view, 12> kCompanionFiles = {"generation_config.json",
                                                                     "tokenizer.model",
                                                                     "tokenizer.json",
                                                                     "tokenizer_config.json",
                                                                     "special_tokens_map.json",
                                                                     "added_tokens.json",
                                                                     "chat_template.jinja",
                                                                     "vocab.json",
                                                                     "merges.txt",
                                                                     "LICENSE",
                                                                     "LICENSE.txt",
                                                                     "NOTICE"};

class OutputDirectory {
 public:
  // With `force`, an earlier quantised model at `path` is replaced, and nothing else ever is.
  //   INVALID_ARGUMENT: `path` is not empty (or holds other things than a quantised model).
  //   UNAVAILABLE: it cannot be created, or another program is writing it.
  static absl::StatusOr<std::unique_ptr<OutputDirectory>> Create(const std::string& path,
                                                                 bool force);
  ~OutputDirectory();
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;

  // Where files go until Commit.
  const std::string& partial() const { return partial_; }

  // Writes config.json.  UNAVAILABLE naming the path.
  absl::Status WriteConfig(const nlohmann::json& config) const;

  // Copies the companion files that `model_directory` has.  UNAVAILABLE naming the path.
  absl::Status CopyCompanions(const std::string& model_directory) const;

  // Makes the files durable and the directory visible at its path. Once.
  absl::Status Commit();

 private:
  OutputDirectory(std::string path, int lock);

  std::string path_;
  std::string partial_;
  int lock_;  // a descriptor of the partial directory, which holds the lock
  bool committed_ = false;
};

}  // namespace intermix
