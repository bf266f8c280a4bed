// The rules of the code base that a machine can check: which room may include which, where the MPI,
// NCCL, CUDA and gRPC headers may appear, how long a file may be, how it opens, what it may not
// hold. Pure functions of the text; CheckTree reads files below `root` and changes nothing.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace intermix::lint {

struct Violation {
  std::string path;  // relative to the root of the repository, '/' between folders
  int line = 0;      // from 1; 0: the file or folder as a whole
  std::string rule;  // what is wrong and what is right, one sentence

  std::string ToString() const { return path + ":" + std::to_string(line) + ": " + rule; }
};

// The rules that one file can be judged by alone.
//   path  relative to the root, e.g. "comm/sharding.cc"; it decides which rules apply
std::vector<Violation> CheckFile(const std::string& path, const std::string& text);

// All files of the rooms below `root` (not tests/data), and the rules about folders: a README.md in
// each room, every source named in a CMakeLists.txt, no code outside the rooms.
std::vector<Violation> CheckTree(const std::filesystem::path& root);

}  // namespace intermix::lint
