#include "tests/testing/model_files.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "gtest/gtest.h"
#include "kernels/core/check.h"
#include "nlohmann/json.hpp"
#include "tests/testing/test_paths.h"

namespace intermix {

namespace fs = std::filesystem;
using nlohmann::json;

TempDirectory::TempDirectory() {
  std::string pattern = ::testing::TempDir() + "/intermix_XXXXXX";
  CHECK(mkdtemp(pattern.data()) != nullptr) << pattern;
  path_ = pattern;
}

TempDirectory::~TempDirectory() {
  std::error_code error;
  fs::remove_all(path_, error);
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  CHECK(file.good()) << "cannot read " << path;
  std::stringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

void WriteFile(const std::string& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  CHECK(file.good()) << "cannot write " << path;
}

std::vector<std::string> ListNames(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

void CopyModel(const std::string& name, const std::string& directory) {
  fs::create_directories(directory);
  for (const auto& entry : fs::directory_iterator(TestData() + "/" + name)) {
    if (entry.is_regular_file()) fs::copy(entry.path(), directory);
  }
}

std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(uint64_t{header.size()} >> (8 * i));
  return bytes.append(header).append(data);
}

std::string EncodeSafetensors(const std::map<std::string, FileTensor>& tensors, int padding) {
  json header = json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    header[name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return SafetensorsBytes(header.dump() + std::string(padding, ' '), data);
}

std::map<std::string, FileTensor> DecodeSafetensors(const std::string& bytes) {
  uint64_t length = 0;
  for (int i = 0; i < 8; ++i) length |= uint64_t{static_cast<uint8_t>(bytes.at(i))} << (8 * i);
  std::map<std::string, FileTensor> tensors;
  const json header = json::parse(bytes.substr(8, length));
  for (const auto& [name, field] : header.items()) {
    if (name == "__metadata__") continue;
    const size_t begin = field["data_offsets"][0];
    const size_t end = field["data_offsets"][1];
    tensors[name] = {.dtype = field["dtype"],
                     .shape = field["shape"],
                     .bytes = bytes.substr(8 + length + begin, end - begin)};
  }
  return tensors;
}

void EditTensors(const std::string& directory,
                 const std::function<void(std::map<std::string, FileTensor>&)>& edit) {
  const std::string path = directory + "/model.safetensors";
  std::map<std::string, FileTensor> tensors = DecodeSafetensors(ReadFile(path));
  edit(tensors);
  WriteFile(path, EncodeSafetensors(tensors));
}

void EditConfig(const std::string& directory, const std::function<void(json&)>& edit) {
  const std::string path = directory + "/config.json";
  json config = json::parse(ReadFile(path));
  edit(config);
  WriteFile(path, config.dump());
}

}  // namespace intermix
