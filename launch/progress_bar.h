// ProgressBar: one line that fills up on a terminal; elsewhere (a log file) a plain line at every
// tenth. Writes to stderr. One thread.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/time/time.h"

namespace intermix {

class ProgressBar {
 public:
  enum class Unit { kBytes, kTokens, kRequests };

  // `title` says what is going on: "quantising". What ends within `quiet` is not worth a word.
  explicit ProgressBar(std::string title, Unit unit = Unit::kBytes, std::FILE* out = stderr,
                       absl::Duration quiet = absl::ZeroDuration());
  ~ProgressBar();  // ends the line
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // How much is done so far, of all. Draws at most ten times a second on a terminal.
  void Update(int64_t done, int64_t total);

 private:
  std::string Line(int64_t done, int64_t total) const;
  std::string Amounts(int64_t done, int64_t total, double rate) const;

  std::string title_;
  Unit unit_;
  std::FILE* out_;
  absl::Duration quiet_;
  bool terminal_;
  absl::Time start_;
  absl::Time drawn_ = absl::InfinitePast();
  int64_t tenths_ = 0;
  bool line_open_ = false;
};

// "1.5 GB", "731 KB": decimal units, as disks are sold.
std::string BytesText(int64_t bytes);

}  // namespace intermix
