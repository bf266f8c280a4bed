// Checks of numbers on the command line, whose refusals say what is wanted. (CLI11's own name a
// range with 309 digits.)
#pragma once

#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace intermix {

inline const CLI::Validator kPositive(
    [](const std::string& text) {
      double value = 0.0;
      if (absl::SimpleAtod(text, &value) && value > 0.0) return std::string();
      return absl::StrCat("must be above 0, not ", text);
    },
    "POSITIVE");

inline const CLI::Validator kNonNegative(
    [](const std::string& text) {
      double value = 0.0;
      if (absl::SimpleAtod(text, &value) && value >= 0.0) return std::string();
      return absl::StrCat("must be 0 or above, not ", text);
    },
    "NONNEGATIVE");

}  // namespace intermix
