#include "runtime/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "runtime/model/json_fields.h"
#include "runtime/model/json_file.h"

namespace intermix {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as in the format's reference reader

struct KnownDType {
  std::string_view name;
  uint64_t bytes;
};
constexpr std::array<KnownDType, 17> kKnownDTypes{{{"BOOL", 1},
                                                   {"U8", 1},
                                                   {"I8", 1},
                                                   {"F8_E5M2", 1},
                                                   {"F8_E4M3", 1},
                                                   {"F8_E8M0", 1},
                                                   {"I16", 2},
                                                   {"U16", 2},
                                                   {"F16", 2},
                                                   {"BF16", 2},
                                                   {"I32", 4},
                                                   {"U32", 4},
                                                   {"F32", 4},
                                                   {"I64", 8},
                                                   {"U64", 8},
                                                   {"F64", 8},
                                                   {"C64", 8}}};

uint64_t BytesOf(const std::string& dtype) {
  for (const KnownDType& known : kKnownDTypes) {
    if (known.name == dtype) return known.bytes;
  }
  return 0;
}

absl::Status Invalid(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

// An array of whole numbers from 0 to 2^63 - 1.
std::optional<std::vector<int64_t>> ReadNumbers(const json& object, const char* field) {
  const auto it = object.find(field);
  if (it == object.end() || !it->is_array()) return std::nullopt;
  std::vector<int64_t> numbers;
  for (const json& value : *it) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{INT64_MAX}) {
      return std::nullopt;
    }
    numbers.push_back(value.get<int64_t>());
  }
  return numbers;
}

// The bytes that shape and dtype ask for; none if that overflows.
std::optional<uint64_t> ShapeBytes(const std::vector<int64_t>& shape, uint64_t element_bytes) {
  uint64_t bytes = element_bytes;
  bool overflow = false;
  for (int64_t extent : shape) {
    overflow |= __builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes);
  }
  if (overflow) return std::nullopt;
  return bytes;
}

// One header field. `data_bytes` follow the header.
absl::StatusOr<SafetensorsEntry> ReadEntry(const json& field, uint64_t data_bytes) {
  const auto refuse = [](const std::string& what) { return absl::InvalidArgumentError(what); };
  if (!field.is_object()) return refuse("is not described by an object");
  SafetensorsEntry entry;
  const auto dtype = field.find("dtype");
  if (dtype == field.end() || !dtype->is_string()) return refuse("has no dtype");
  entry.dtype = dtype->get<std::string>();
  const uint64_t element_bytes = BytesOf(entry.dtype);
  if (element_bytes == 0) return refuse(absl::StrCat("has the unknown dtype ", ShortText(*dtype)));

  std::optional<std::vector<int64_t>> shape = ReadNumbers(field, "shape");
  if (!shape) return refuse("has no shape of whole numbers");
  entry.shape = *std::move(shape);
  const std::optional<std::vector<int64_t>> offsets = ReadNumbers(field, "data_offsets");
  if (!offsets || offsets->size() != 2 || (*offsets)[0] > (*offsets)[1]) {
    return refuse("has no data_offsets [begin, end]");
  }
  entry.begin = static_cast<size_t>((*offsets)[0]);
  entry.end = static_cast<size_t>((*offsets)[1]);
  if (entry.end > data_bytes) {
    return refuse(absl::StrCat("ends at byte ", entry.end, " of the data, which has only ",
                               data_bytes, " bytes; is the file truncated?"));
  }
  const std::optional<uint64_t> bytes = ShapeBytes(entry.shape, element_bytes);
  if (!bytes || *bytes != entry.end - entry.begin) {
    return refuse(absl::StrCat("of dtype ", entry.dtype, " and shape [",
                               absl::StrJoin(entry.shape, ", "), "] does not fill its ",
                               entry.end - entry.begin, " bytes"));
  }
  return entry;
}

// The data belongs to tensors byte for byte: sorted by offset, each begins where the last ended.
absl::Status CheckCoverage(const SafetensorsEntries& entries, uint64_t data_bytes,
                           const std::string& where) {
  std::vector<SafetensorsEntries::const_pointer> sorted;
  for (const auto& item : entries) sorted.push_back(&item);
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  size_t covered = 0;
  std::string previous;
  for (const auto* item : sorted) {
    const std::string name = ShortText(json(item->first));
    if (item->second.begin < covered) {
      return Invalid(where, absl::StrCat("tensors ", previous, " and ", name, " overlap"));
    }
    if (item->second.begin > covered) {
      return Invalid(where, absl::StrCat("the bytes before tensor ", name, " belong to no tensor"));
    }
    covered = item->second.end;
    previous = name;
  }
  if (covered == data_bytes) return absl::OkStatus();
  return Invalid(where,
                 absl::StrCat("the last ", data_bytes - covered, " bytes belong to no tensor"));
}

}  // namespace

absl::StatusOr<SafetensorsEntries> ParseSafetensors(std::span<const uint8_t> file,
                                                    const std::string& where) {
  if (file.size() < kLengthBytes) {
    return Invalid(where, absl::StrCat("has ", file.size(), " bytes, too few for safetensors"));
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) header_bytes |= uint64_t{file[i]} << (8 * i);
  if (header_bytes > file.size() - kLengthBytes) {
    return Invalid(where, absl::StrCat("its header of ", header_bytes,
                                       " bytes is longer than the file; is it truncated?"));
  }
  if (header_bytes > kMaxHeaderBytes) {
    return Invalid(where, absl::StrCat("its header of ", header_bytes, " bytes is above the ",
                                       kMaxHeaderBytes, " that safetensors allows"));
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes,
                              header_bytes);
  absl::StatusOr<json> header = ParseJson(text, absl::StrCat("the header of ", where));
  if (!header.ok()) return header.status();
  if (!header->is_object()) return Invalid(where, "its header is not a JSON object");

  const uint64_t data_begin = kLengthBytes + header_bytes;
  const uint64_t data_bytes = file.size() - data_begin;
  SafetensorsEntries entries;
  for (const auto& [name, field] : header->items()) {
    if (name == "__metadata__") continue;
    absl::StatusOr<SafetensorsEntry> entry = ReadEntry(field, data_bytes);
    if (!entry.ok()) {
      return Invalid(where,
                     absl::StrCat("tensor ", ShortText(json(name)), " ", entry.status().message()));
    }
    entries.emplace(name, *std::move(entry));
  }
  if (absl::Status s = CheckCoverage(entries, data_bytes, where); !s.ok()) return s;
  for (auto& [name, entry] : entries) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  return entries;
}

std::optional<DType> DTypeFromName(const std::string& name) {
  for (DType dtype :
       {DType::kF32, DType::kF16, DType::kBF16, DType::kI8, DType::kU8, DType::kI16, DType::kI32}) {
    if (Name(dtype) == name) return dtype;
  }
  return std::nullopt;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  absl::StatusOr<std::shared_ptr<const MappedFile>> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<SafetensorsEntries> entries = ParseSafetensors((*file)->bytes(), path);
  if (!entries.ok()) return entries.status();
  return SafetensorsFile{.path = path, .file = *std::move(file), .entries = *std::move(entries)};
}

}  // namespace intermix
