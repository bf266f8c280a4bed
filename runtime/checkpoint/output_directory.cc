#include "runtime/checkpoint/output_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint/model_directory.h"

namespace intermix {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 3> kOwnFiles = {"config.json", "model.safetensors",
                                                       "model.safetensors.tmp"};

template <size_t kSize>
bool Contains(const std::array<std::string_view, kSize>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// What a directory holds; nothing where it cannot be read.
std::vector<fs::directory_entry> Entries(const std::string& path) {
  std::vector<fs::directory_entry> entries;
  std::error_code error;
  fs::directory_iterator entry(path, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    entries.push_back(*entry);
  }
  return entries;
}

// Whether a directory holds nothing but files that quantising writes.
bool HoldsOnlyOurFiles(const std::string& path) {
  for (const fs::directory_entry& entry : Entries(path)) {
    std::error_code error;
    const std::string name = entry.path().filename().string();
    const bool ours = Contains(kOwnFiles, name) || Contains(kCompanionFiles, name);
    if (!ours || !entry.is_regular_file(error)) return false;
  }
  return true;
}

absl::Status CheckReplaceable(const std::string& path, bool force) {
  std::error_code error;
  if (!fs::exists(path, error)) return absl::OkStatus();
  if (!fs::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a directory"));
  }
  if (fs::is_empty(path, error) && !error) return absl::OkStatus();
  if (!force) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " is not empty; use --force to replace a quantised model, or another directory"));
  }
  const absl::StatusOr<ModelDirectory> model = ReadModelDirectory(path);
  if (model.ok() && model->quantization && HoldsOnlyOurFiles(path)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      path,
      " holds other things than a quantised model, which --force does not replace; use "
      "another directory"));
}

// The path without a trailing slash and symbolic links, so that names beside it can be made.
std::string Resolve(const std::string& path) {
  std::error_code error;
  fs::path resolved = fs::weakly_canonical(fs::absolute(path, error), error);
  if (resolved.filename().empty()) resolved = resolved.parent_path();
  return resolved.string();
}

absl::Status Refused(const std::string& what, const std::string& path, const std::string& why) {
  return absl::UnavailableError(absl::StrCat("cannot ", what, " ", path, ": ", why));
}

// Opens and locks the partial directory. The descriptor, or the reason why not.
absl::StatusOr<int> LockDirectory(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Refused("open", path, std::strerror(errno));
  if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return fd;
  close(fd);
  return absl::UnavailableError(absl::StrCat(path, " is being written by another program"));
}

// Makes a file's bytes, or a directory's entries, durable.
absl::Status SyncPath(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool synced = fd >= 0 && fsync(fd) == 0;
  const std::string reason = std::strerror(errno);
  if (fd >= 0) close(fd);
  return synced ? absl::OkStatus() : Refused("sync", path, reason);
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputDirectory>> OutputDirectory::Create(const std::string& path,
                                                                         bool force) {
  const std::string resolved = Resolve(path);
  if (resolved.empty()) return absl::InvalidArgumentError("the output directory has no name");
  if (absl::Status s = CheckReplaceable(resolved, force); !s.ok()) return s;
  const std::string partial = absl::StrCat(resolved, ".partial");
  std::error_code error;
  fs::create_directories(partial, error);
  if (error) return Refused("create", partial, error.message());
  const absl::StatusOr<int> lock = LockDirectory(partial);
  if (!lock.ok()) return lock.status();
  if (!HoldsOnlyOurFiles(partial)) {
    close(*lock);
    return absl::InvalidArgumentError(absl::StrCat(
        partial, " holds other things than an interrupted quantisation; remove it first"));
  }
  for (const fs::directory_entry& entry : Entries(partial)) fs::remove(entry.path(), error);
  return std::unique_ptr<OutputDirectory>(new OutputDirectory(resolved, *lock));
}

OutputDirectory::OutputDirectory(std::string path, int lock)
    : path_(std::move(path)), partial_(absl::StrCat(path_, ".partial")), lock_(lock) {}

OutputDirectory::~OutputDirectory() {
  std::error_code error;
  if (!committed_) fs::remove_all(partial_, error);
  close(lock_);
}

absl::Status OutputDirectory::WriteConfig(const nlohmann::json& config) const {
  const std::string path = partial_ + "/config.json";
  std::ofstream file(path, std::ios::binary);
  file << config.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot write ", path));
}

absl::Status OutputDirectory::CopyCompanions(const std::string& model_directory) const {
  std::error_code error;
  for (const std::string_view name : kCompanionFiles) {
    const fs::path original = fs::path(model_directory) / name;
    if (!fs::is_regular_file(original, error)) continue;
    if (!fs::copy_file(original, fs::path(partial_) / name, error)) {
      return Refused("copy", original.string(), error.message());
    }
  }
  return absl::OkStatus();
}

absl::Status OutputDirectory::Commit() {
  for (const fs::directory_entry& entry : Entries(partial_)) {
    if (absl::Status s = SyncPath(entry.path().string()); !s.ok()) return s;
  }
  if (absl::Status s = SyncPath(partial_); !s.ok()) return s;
  std::error_code error;
  const std::string old = absl::StrCat(path_, ".old");
  const bool replaces = fs::exists(path_, error) && !fs::is_empty(path_, error);
  if (replaces) {
    fs::rename(path_, old, error);
    if (error) return Refused("replace", path_, error.message());
  }
  fs::rename(partial_, path_, error);
  if (error) {
    const std::string why = error.message();
    if (replaces) fs::rename(old, path_, error);
    return Refused("create", path_, why);
  }
  committed_ = true;
  if (replaces) fs::remove_all(old, error);
  const fs::path parent = fs::path(path_).parent_path();
  return SyncPath(parent.empty() ? "." : parent.string());
}

}  // namespace intermix
