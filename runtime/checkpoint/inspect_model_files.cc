#include "runtime/checkpoint/inspect_model_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/model/json_file.h"

namespace intermix {
namespace {

// What of a weights file is looked at, besides its header: so many pages, evenly spread.
constexpr int64_t kPage = 4096;
constexpr int64_t kPages = 16;
// A longer header than this is not one that a reader takes either.
constexpr int64_t kMaxHeader = int64_t{100} << 20;

// 64-bit FNV-1a (www.isthe.com/chongo/tech/comp/fnv): the same on every host.
class Hash {
 public:
  void Add(std::string_view bytes) {
    AddRaw(bytes);
    const uint64_t size = bytes.size();  // so that where one ends and the next begins counts
    AddRaw({reinterpret_cast<const char*>(&size), sizeof(size)});
  }
  std::string Hex() const { return absl::StrFormat("%016x", state_); }

 private:
  void AddRaw(std::string_view bytes) {
    for (const char c : bytes) state_ = (state_ ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  }
  uint64_t state_ = 0xcbf29ce484222325u;
};

// A file that is open for reading.
class OpenFile {
 public:
  // None where it cannot be read; then errno says why.
  static std::optional<OpenFile> Open(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not wait
    if (fd < 0) return std::nullopt;
    OpenFile file(fd);
    struct stat stat = {};
    if (fstat(fd, &stat) != 0) return std::nullopt;
    if (!S_ISREG(stat.st_mode)) {
      errno = S_ISDIR(stat.st_mode) ? EISDIR : EINVAL;
      return std::nullopt;
    }
    file.size_ = stat.st_size;
    return file;
  }
  OpenFile(OpenFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}
  ~OpenFile() {
    if (fd_ >= 0) close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  OpenFile& operator=(OpenFile&&) = delete;

  int64_t size() const { return size_; }

  // Bytes [begin, begin + size), less what lies behind its end; none where reading fails.
  std::optional<std::string> Read(int64_t begin, int64_t size) const {
    std::string bytes(std::clamp<int64_t>(size_ - begin, 0, size), '\0');
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t count = pread(fd_, bytes.data() + done, bytes.size() - done,
                                  static_cast<off_t>(begin + static_cast<int64_t>(done)));
      if (count < 0 && errno == EINTR) continue;
      if (count == 0) errno = EIO;  // it shrank
      if (count <= 0) return std::nullopt;
      done += static_cast<size_t>(count);
    }
    return bytes;
  }

 private:
  explicit OpenFile(int fd) : fd_(fd) {}
  int fd_;
  int64_t size_ = 0;
};

// Of a weights file its header and some pages, of any other file everything. False where reading
// fails.
bool AddContent(const OpenFile& file, bool weights, Hash& hash) {
  const auto add = [&](int64_t begin, int64_t size) {
    const std::optional<std::string> bytes = file.Read(begin, size);
    if (bytes) hash.Add(*bytes);
    return bytes.has_value();
  };
  if (!weights) return add(0, file.size());
  const std::optional<std::string> length = file.Read(0, sizeof(uint64_t));
  if (!length) return false;
  uint64_t header = 0;
  std::memcpy(&header, length->data(), length->size());
  const int64_t data =
      sizeof(header) + static_cast<int64_t>(std::min<uint64_t>(header, kMaxHeader));
  if (!add(0, data)) return false;
  for (int64_t i = 0; i < kPages; ++i) {
    if (!add(data + (file.size() - data) * i / kPages, kPage)) return false;
  }
  return true;
}

// The weights files that the directory's index names, or the one that needs none.
std::set<std::string> WeightsFiles(const std::string& directory) {
  const std::string single = "model.safetensors";
  const std::string index = absl::StrCat(directory, "/model.safetensors.index.json");
  std::error_code error;
  if (std::filesystem::exists(absl::StrCat(directory, "/", single), error) ||
      !std::filesystem::exists(index, error)) {
    return {single};
  }
  std::set<std::string> names;
  const absl::StatusOr<nlohmann::json> json = ReadJsonFile(index);
  if (!json.ok() || !json->is_object() || !json->contains("weight_map")) return names;
  for (const auto& [tensor, file] : (*json)["weight_map"].items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (!name.empty() && name.find('/') == std::string::npos) names.insert(name);
  }
  return names;
}

}  // namespace

ModelFiles InspectModelFiles(const std::string& directory) {
  // What decides about tokens, where it is there; only config.json has to be.
  constexpr std::array kOptional = {"generation_config.json", "model.safetensors.index.json",
                                    "tokenizer.json", "tokenizer.model", "tokenizer_config.json"};
  std::set<std::string> names = WeightsFiles(directory);
  names.insert("config.json");
  std::error_code error;
  for (const char* name : kOptional) {
    const std::string path = absl::StrCat(directory, "/", name);
    // A link that leads nowhere is there, too: somebody meant it to be.
    if (std::filesystem::symlink_status(path, error).type() !=
        std::filesystem::file_type::not_found)
      names.insert(name);
  }
  ModelFiles result;
  Hash hash;
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(directory, "/", name);
    const std::optional<OpenFile> file = OpenFile::Open(path);
    if (file) {
      hash.Add(name);
      hash.Add(absl::StrCat(file->size()));
    }
    if (!file || !AddContent(*file, name.ends_with(".safetensors"), hash)) {
      result.problems.push_back(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
    }
  }
  if (result.problems.empty()) result.fingerprint = hash.Hex();
  return result;
}

}  // namespace intermix
