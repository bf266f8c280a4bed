#include "runtime/checkpoint/tensor_files.h"

#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/buffer.h"
#include "nlohmann/json.hpp"
#include "runtime/model/json_fields.h"
#include "runtime/model/json_file.h"

namespace intermix {
namespace {

using nlohmann::json;

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// A name inside the directory itself: no separator, no way up.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace

absl::StatusOr<TensorFiles> TensorFiles::Open(const std::string& directory) {
  TensorFiles result;
  result.directory_ = directory;
  const std::string single = absl::StrCat(directory, "/model.safetensors");
  const std::string index = absl::StrCat(directory, "/model.safetensors.index.json");
  std::error_code error;
  if (!std::filesystem::exists(single, error) && std::filesystem::exists(index, error)) {
    if (absl::Status s = result.AddIndexedFiles(directory, index); !s.ok()) return s;
    return result;
  }
  if (!std::filesystem::exists(single, error)) {
    return absl::NotFoundError(absl::StrCat("there is neither model.safetensors nor ",
                                            "model.safetensors.index.json in ", directory));
  }
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(single);
  if (!file.ok()) return file.status();
  result.files_.push_back(std::make_unique<SafetensorsFile>(*std::move(file)));
  const SafetensorsFile* opened = result.files_.back().get();
  for (const auto& [name, entry] : opened->entries) result.index_[name] = {opened, &entry};
  return result;
}

absl::Status TensorFiles::AddIndexedFiles(const std::string& directory,
                                          const std::string& index_path) {
  absl::StatusOr<json> index = ReadJsonFile(index_path);
  if (!index.ok()) return index.status();
  const JsonFields fields(*index, index_path);
  const json* weight_map = fields.Find("weight_map");
  if (weight_map == nullptr || !weight_map->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": weight_map is missing"));
  }
  std::map<std::string, const SafetensorsFile*> opened;
  for (const auto& [tensor, value] : weight_map->items()) {
    const std::string file_name = value.is_string() ? value.get<std::string>() : "";
    if (!IsPlainFileName(file_name)) {
      return absl::InvalidArgumentError(absl::StrCat(index_path, ": tensor ",
                                                     ShortText(json(tensor)), " is in ",
                                                     ShortText(value), ", not a file name"));
    }
    const SafetensorsFile*& file = opened[file_name];
    if (file == nullptr) {
      absl::StatusOr<SafetensorsFile> read =
          SafetensorsFile::Open(absl::StrCat(directory, "/", file_name));
      if (!read.ok()) return read.status();
      files_.push_back(std::make_unique<SafetensorsFile>(*std::move(read)));
      file = files_.back().get();
    }
    const auto entry = file->entries.find(tensor);
    if (entry == file->entries.end()) {
      return absl::NotFoundError(absl::StrCat("tensor ", ShortText(json(tensor)),
                                              " is missing from ", file->path,
                                              ", where the index says it is"));
    }
    index_[tensor] = {file, &entry->second};
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorFiles::Location> TensorFiles::Find(const std::string& name) const {
  const auto it = index_.find(name);
  if (it != index_.end()) return it->second;
  return absl::NotFoundError(absl::StrCat("tensor ", name, " is missing from ", directory_));
}

absl::Status TensorFiles::CheckShape(const std::string& name,
                                     const std::vector<int64_t>& shape) const {
  absl::StatusOr<Location> location = Find(name);
  if (!location.ok()) return location.status();
  if (location->entry->shape == shape) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " in ", location->file->path,
                                                 " has shape ", ShapeText(location->entry->shape),
                                                 ", but config.json asks for ", ShapeText(shape)));
}

absl::StatusOr<std::vector<int64_t>> TensorFiles::Shape(const std::string& name) const {
  absl::StatusOr<Location> location = Find(name);
  if (!location.ok()) return location.status();
  return location->entry->shape;
}

absl::StatusOr<DType> TensorFiles::CheckDType(const std::string& name,
                                              std::initializer_list<DType> allowed) const {
  absl::StatusOr<Location> location = Find(name);
  if (!location.ok()) return location.status();
  const std::optional<DType> dtype = DTypeFromName(location->entry->dtype);
  std::vector<std::string> names;
  for (DType candidate : allowed) {
    if (dtype == candidate) return candidate;
    names.emplace_back(Name(candidate));
  }
  return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " in ", location->file->path,
                                                 " is ", location->entry->dtype, ", not ",
                                                 absl::StrJoin(names, " or ")));
}

absl::StatusOr<TensorRows> TensorFiles::Rows(const std::string& name,
                                             const std::vector<int64_t>& shape, Slice rows,
                                             std::initializer_list<DType> allowed) const {
  if (absl::Status s = CheckShape(name, shape); !s.ok()) return s;
  const absl::StatusOr<DType> dtype = CheckDType(name, allowed);
  if (!dtype.ok()) return dtype.status();
  const bool matrix = shape.size() == 2;
  if ((shape.size() != 1 && !matrix) || rows.begin < 0 || rows.begin > rows.end ||
      rows.end > shape[0]) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " of shape ", ShapeText(shape),
                                                   " has no rows ", rows.begin, "..", rows.end));
  }
  const Location location = *Find(name);
  const size_t row_bytes = ByteSize(*dtype) * static_cast<size_t>(matrix ? shape[1] : 1);
  const size_t bytes = row_bytes * static_cast<size_t>(rows.size());
  const uint8_t* source = location.file->file->bytes().data() + location.entry->begin +
                          row_bytes * static_cast<size_t>(rows.begin);
  std::shared_ptr<const void> owner = location.file->file;
  void* data = const_cast<uint8_t*>(source);  // a Tensor is never const; inputs are not written
  if (reinterpret_cast<uintptr_t>(source) % ByteSize(*dtype) != 0) {
    auto copy = std::make_shared<Buffer>(Buffer::Host(bytes));
    if (bytes > 0) std::memcpy(copy->data(), source, bytes);
    data = copy->data();
    owner = std::move(copy);
  }
  const Tensor view =
      matrix ? Tensor(data, *dtype, {rows.size(), shape[1]}) : Tensor(data, *dtype, {rows.size()});
  return TensorRows{.view = view, .owner = std::move(owner)};
}

int64_t TensorFiles::bytes(const std::string& name) const {
  const auto it = index_.find(name);
  if (it == index_.end()) return 0;
  return static_cast<int64_t>(it->second.entry->end - it->second.entry->begin);
}

void TensorFiles::Release(const std::string& name) const {
  const auto it = index_.find(name);
  if (it == index_.end()) return;
  it->second.file->file->Release(it->second.entry->begin, it->second.entry->end);
}

std::shared_ptr<const void> TensorFiles::ReleasedAtLast(const std::string& name) const {
  const auto it = index_.find(name);
  if (it == index_.end()) return nullptr;
  const auto release = [file = it->second.file->file, begin = it->second.entry->begin,
                        end = it->second.entry->end](const void*) { file->Release(begin, end); };
  return std::shared_ptr<const void>(nullptr, release);
}

}  // namespace intermix
