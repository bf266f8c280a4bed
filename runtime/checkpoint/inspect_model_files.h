// What a model directory's files are, found out without reading the weights: whether they can be
// read, and a fingerprint by which ranks on different hosts see that theirs are the same. Any
// thread.
#pragma once

#include <string>
#include <vector>

namespace intermix {

struct ModelFiles {
  // 16 hexadecimal digits over the names and sizes of the files, the whole of the small ones, and
  // of each weights file its header and a few pages of its data: so milliseconds, whatever the
  // size. Empty where a file cannot be read.
  std::string fingerprint;
  std::vector<std::string> problems;  // a sentence for each file that is missing or unreadable
};

// `directory` exists.
ModelFiles InspectModelFiles(const std::string& directory);

}  // namespace intermix
