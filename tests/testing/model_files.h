// Files for tests of what reads and writes models: a directory that cleans up after itself, and a
// safetensors codec that is independent of the one under test. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "nlohmann/json_fwd.hpp"

namespace intermix {

class TempDirectory {
 public:
  TempDirectory();
  ~TempDirectory();
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

std::string ReadFile(const std::string& path);
void WriteFile(const std::string& path, std::string_view bytes);

// Names of the entries of a directory, sorted.
std::vector<std::string> ListNames(const std::string& directory);

// Copies a directory of tests/data, all its files.
void CopyModel(const std::string& name, const std::string& directory);

struct FileTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

// A safetensors file: 8 bytes of length, `header`, `data`. Nothing is checked.
std::string SafetensorsBytes(std::string_view header, std::string_view data);

// A valid file that holds `tensors` in the order of their names. `padding` spaces end the header.
std::string EncodeSafetensors(const std::map<std::string, FileTensor>& tensors, int padding = 0);

// The tensors of a valid file.
std::map<std::string, FileTensor> DecodeSafetensors(const std::string& bytes);

// Rewrites `directory`/model.safetensors after `edit` changed its tensors.
void EditTensors(const std::string& directory,
                 const std::function<void(std::map<std::string, FileTensor>&)>& edit);

// Rewrites `directory`/config.json after `edit` changed it.
void EditConfig(const std::string& directory, const std::function<void(nlohmann::json&)>& edit);

}  // namespace intermix
