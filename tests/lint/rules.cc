#include "tests/lint/rules.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>
#include <string_view>

namespace intermix::lint {
namespace {

namespace fs = std::filesystem;

// A room may include itself and what stands before it.
constexpr std::array<std::string_view, 5> kDirection = {"kernels", "comm", "moe", "runtime",
                                                        "launch"};
constexpr std::array<std::string_view, 7> kRooms = {"kernels", "comm",   "moe",  "runtime",
                                                    "proto",   "launch", "tests"};
constexpr int kMaxColumns = 100;
constexpr int kMaxReadmeLines = 70;

// Headers of one outside system, and the path prefixes that may include them.
struct Fence {
  std::string_view name;
  const char* header;  // regular expression for what stands in #include <...> or "..."
  std::vector<std::string_view> allowed;
};

const std::vector<Fence>& Fences() {
  static const std::vector<Fence> fences = {
      {"MPI", R"(mpi\.h)", {"comm/mpi_", "tests/emulator/"}},
      {"NCCL", R"(nccl.*)", {"comm/nccl_", "tests/emulator/"}},
      {"CUDA",
       R"((cuda|cublas|cub|cute|cutlass|cooperative_groups|nvtx|thrust).*)",
       {"kernels/cuda/", "tests/kernels/cuda/", "tests/emulator/"}},
      {"gRPC and protobuf",
       R"(grpc.*|google/protobuf/.*|.*\.pb\.h)",
       {"runtime/rpc/", "launch/", "tests/"}},
  };
  return fences;
}

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

bool EndsWith(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

bool IsHeader(std::string_view path) { return EndsWith(path, ".h") || EndsWith(path, ".cuh"); }

bool IsSource(std::string_view path) { return EndsWith(path, ".cc") || EndsWith(path, ".cu"); }

std::string TopFolder(const std::string& path) { return path.substr(0, path.find('/')); }

// The most lines that a file may have; 0: any number.
int MaxLines(std::string_view path) {
  if (EndsWith(path, "_test.cc")) return 600;
  if (EndsWith(path, "_command.cc")) return 150;
  if (EndsWith(path, ".cu")) return 800;
  if (EndsWith(path, ".cc")) return 400;
  if (IsHeader(path)) return 200;
  if (EndsWith(path, "README.md")) return kMaxReadmeLines;
  return 0;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// Characters, not bytes: continuation bytes of UTF-8 do not count.
int Columns(const std::string& line) {
  return static_cast<int>(std::count_if(line.begin(), line.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u;
  }));
}

// The line without a trailing // comment and without the text inside string literals.
std::string CodeOf(const std::string& line) {
  std::string code;
  char quote = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == '\\') ++i;
      if (c == quote) quote = 0;
      continue;
    }
    if (c == '/' && i + 1 < line.size() && line[i + 1] == '/') break;
    const bool digit_separator = c == '\'' && i > 0 && std::isxdigit(line[i - 1]);
    if ((c == '"' || c == '\'') && !digit_separator) quote = c;
    code += c;
  }
  return code;
}

std::string CheckInclude(const std::string& path, const std::string& header) {
  for (const Fence& fence : Fences()) {
    if (!std::regex_match(header, std::regex(fence.header))) continue;
    const bool allowed = std::any_of(fence.allowed.begin(), fence.allowed.end(),
                                     [&](std::string_view room) { return StartsWith(path, room); });
    if (allowed) return "";
    std::string rooms;
    for (std::string_view room : fence.allowed) rooms += " " + std::string(room);
    return "includes " + header + "; headers of " + std::string(fence.name) + " belong to" + rooms;
  }
  if (header.find("..") != std::string::npos) {
    return "includes " + header + "; write the path from the root of the repository";
  }
  const auto mine = std::find(kDirection.begin(), kDirection.end(), TopFolder(path));
  const auto theirs = std::find(kDirection.begin(), kDirection.end(), TopFolder(header));
  const bool from_tests = TopFolder(path) == "tests";
  if (!from_tests && TopFolder(header) == "tests") return "includes " + header + " of the tests";
  if (mine != kDirection.end() && theirs != kDirection.end() && theirs > mine) {
    return "includes " + header + "; the direction is kernels <- comm <- moe <- runtime <- launch";
  }
  return "";
}

// What one line of C++ may not hold; "" where it is fine.
std::string CheckCodeLine(const std::string& path, const std::string& line) {
  static const std::regex include(R"re(^\s*#\s*include\s*["<]([^">]+)[">].*)re");
  static const std::regex define(R"(^\s*#\s*define\s+(\w+).*)");
  static const std::regex exception(R"(\bthrow\b)");
  std::smatch match;
  if (std::regex_match(line, match, include)) return CheckInclude(path, match[1]);
  if (std::regex_match(line, match, define)) {
    const std::string name = match[1];
    for (std::string_view prefix : {"CHECK", "LOG", "INTERMIX_"}) {
      if (StartsWith(name, prefix)) return "";
    }
    // The fake CUDA runtime must spell CUDA's function specifiers.
    if (StartsWith(path, "tests/emulator/include/") && StartsWith(name, "__")) return "";
    return "defines the macro " + name + "; macros are for CHECK and LOG only";
  }
  if (std::regex_search(CodeOf(line), exception)) return "throws; return an absl::Status";
  return "";
}

std::string CheckTextLine(const std::string& line) {
  static const std::regex unfinished(R"(\b(TOD[O]|FIXM[E]|XX[X])\b)");
  static const std::regex machine_path(R"(["'\s=(]/(home|root|work|tmp)/\w)");
  if (line.find('\t') != std::string::npos) return "holds a tab; indent with spaces";
  if (Columns(line) > kMaxColumns) {
    return "is " + std::to_string(Columns(line)) + " columns wide; the limit is 100";
  }
  if (!line.empty() && line.back() == ' ') return "ends in a space";
  if (!line.empty() && line.back() == '\r') return "ends in a carriage return";
  if (std::regex_search(line, unfinished)) return "is marked as unfinished; finish it or file it";
  if (std::regex_search(line, machine_path)) return "names a path of somebody's machine";
  return "";
}

bool IsText(const std::string& path) {
  const std::string name = fs::path(path).filename().string();
  if (IsHeader(path) || IsSource(path) || name == "CMakeLists.txt") return true;
  return EndsWith(path, ".proto") || EndsWith(path, ".cmake") || EndsWith(path, ".py") ||
         EndsWith(path, ".sh") || name.find('.') == std::string::npos;
}

std::string Read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Whether a CMakeLists.txt in the file's folder or one above it names the file.
bool InABuildList(const fs::path& root, const std::string& path) {
  fs::path folder = fs::path(path).parent_path();
  while (!folder.empty()) {
    const std::string named = fs::path(path).lexically_relative(folder).generic_string();
    const std::string list = Read(root / folder / "CMakeLists.txt");
    for (size_t at = list.find(named); at != std::string::npos; at = list.find(named, at + 1)) {
      const char before = at == 0 ? ' ' : list[at - 1];
      if (before == ' ' || before == '\n' || before == '(') return true;
    }
    folder = folder.parent_path();
  }
  return false;
}

// Rooms need a page that says what may come in; below tests/ the folders mirror the rooms, and
// below proto/ they are package names.
bool NeedsReadme(const std::string& folder) {
  const std::string top = TopFolder(folder);
  return folder == top || (top != "tests" && top != "proto");
}

void CheckFolders(const fs::path& root, const std::vector<std::string>& files,
                  std::vector<Violation>& found) {
  std::vector<std::string> folders;
  for (const std::string& file : files) {
    const std::string folder = fs::path(file).parent_path().generic_string();
    if (folders.empty() || folders.back() != folder) folders.push_back(folder);
  }
  std::sort(folders.begin(), folders.end());
  folders.erase(std::unique(folders.begin(), folders.end()), folders.end());
  for (const std::string& folder : folders) {
    const fs::path readme = fs::path(folder) / "README.md";
    if (NeedsReadme(folder) && !fs::exists(root / readme)) {
      found.push_back({folder, 0, "has no README.md that says what is in the room"});
    }
  }
}

}  // namespace

std::vector<Violation> CheckFile(const std::string& path, const std::string& text) {
  std::vector<Violation> found;
  const std::vector<std::string> lines = Lines(text);
  const int num_lines = static_cast<int>(lines.size());
  if (const int limit = MaxLines(path); limit > 0 && num_lines > limit) {
    found.push_back({path, num_lines, "is longer than " + std::to_string(limit) + " lines"});
  }
  if (!IsText(path)) return found;
  for (int i = 0; i < num_lines; ++i) {
    if (std::string rule = CheckTextLine(lines[i]); !rule.empty()) {
      found.push_back({path, i + 1, rule});
    }
    if (!IsHeader(path) && !IsSource(path)) continue;
    if (std::string rule = CheckCodeLine(path, lines[i]); !rule.empty()) {
      found.push_back({path, i + 1, rule});
    }
  }
  if (IsHeader(path)) {
    if (lines.empty() || !StartsWith(lines[0], "//")) {
      found.push_back({path, 1, "opens without a comment that says what the header is for"});
    }
    if (std::find(lines.begin(), lines.end(), "#pragma once") == lines.end()) {
      found.push_back({path, 1, "has no #pragma once"});
    }
  }
  if (!text.empty() && text.back() != '\n') {
    found.push_back({path, num_lines, "does not end in a newline"});
  }
  return found;
}

std::vector<Violation> CheckTree(const fs::path& root) {
  std::vector<Violation> found;
  std::vector<std::string> files;
  for (const fs::directory_entry& top : fs::directory_iterator(root)) {
    const std::string name = top.path().filename().string();
    if (!top.is_directory() || name[0] == '.' || name == "build") continue;
    const bool is_room = std::find(kRooms.begin(), kRooms.end(), name) != kRooms.end();
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(top)) {
      if (!entry.is_regular_file()) continue;
      const std::string path = entry.path().lexically_relative(root).generic_string();
      if (StartsWith(path, "tests/data/") || path.find("__pycache__") != std::string::npos)
        continue;
      if (is_room) {
        files.push_back(path);
      } else if (IsSource(path) || IsHeader(path)) {
        found.push_back({path, 0, "is code outside the rooms of architecture"});
      }
    }
  }
  std::sort(files.begin(), files.end());
  for (const std::string& path : files) {
    const std::vector<Violation> in_file = CheckFile(path, Read(root / path));
    found.insert(found.end(), in_file.begin(), in_file.end());
    if (IsSource(path) && !InABuildList(root, path)) {
      found.push_back({path, 0, "is in no CMakeLists.txt, so it is never built"});
    }
  }
  CheckFolders(root, files, found);
  return found;
}

}  // namespace intermix::lint
