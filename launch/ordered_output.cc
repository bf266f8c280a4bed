#include "launch/ordered_output.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

absl::Status CannotWrite(const std::string& path) {
  return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
}

}  // namespace

OrderedOutput::OrderedOutput(std::string path, std::FILE* file)
    : path_(std::move(path)), partial_(path_ + ".partial"), file_(file) {}

OrderedOutput::~OrderedOutput() { (void)Close(); }

absl::StatusOr<std::unique_ptr<OrderedOutput>> OrderedOutput::Open(const std::string& path) {
  std::FILE* file = stdout;
  if (!path.empty()) file = std::fopen((path + ".partial").c_str(), "wb");
  if (file == nullptr) return CannotWrite(path + ".partial");
  return std::unique_ptr<OrderedOutput>(new OrderedOutput(path, file));
}

void OrderedOutput::Write(const std::string& line) {
  failed_ = std::fwrite(line.data(), 1, line.size(), file_) != line.size() || failed_;
  failed_ = std::fputc('\n', file_) == EOF || failed_;
}

void OrderedOutput::Add(int64_t index, std::string line) {
  const std::lock_guard lock(mutex_);
  waiting_[index] = std::move(line);
  for (auto it = waiting_.begin(); it != waiting_.end() && it->first == next_; ++next_) {
    Write(it->second);
    it = waiting_.erase(it);
  }
}

absl::Status OrderedOutput::Close() {
  if (file_ == nullptr) return absl::OkStatus();
  failed_ = std::fflush(file_) != 0 || failed_;
  if (!path_.empty()) {
    failed_ = fsync(fileno(file_)) != 0 || failed_;
    failed_ = std::fclose(file_) != 0 || failed_;
  }
  file_ = nullptr;
  if (!failed_) return absl::OkStatus();
  return CannotWrite(path_.empty() ? "to stdout" : partial_);
}

absl::Status OrderedOutput::Finish() {
  const std::lock_guard lock(mutex_);
  if (absl::Status s = Close(); !s.ok()) return s;
  if (path_.empty() || std::rename(partial_.c_str(), path_.c_str()) == 0) return absl::OkStatus();
  return CannotWrite(path_);
}

std::string OrderedOutput::Abandon() {
  const std::lock_guard lock(mutex_);
  for (const auto& [index, line] : waiting_) Write(line);
  waiting_.clear();
  (void)Close();
  return path_.empty() ? "stdout" : partial_;
}

}  // namespace intermix
