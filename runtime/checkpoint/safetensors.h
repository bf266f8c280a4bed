// The safetensors format (github.com/huggingface/safetensors, "Format"): 8 bytes of little-endian
// header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data without holes.
// The reader believes nothing: every length and offset is checked before it is used.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/dtype.h"
#include "runtime/checkpoint/mapped_file.h"

namespace intermix {

struct SafetensorsEntry {
  std::string dtype;           // as the header says it: "BF16", "I64", ...
  std::vector<int64_t> shape;  // outermost first; empty for a scalar
  size_t begin = 0;            // byte range in the file
  size_t end = 0;
};

using SafetensorsEntries = std::map<std::string, SafetensorsEntry>;

// Checks the whole header of `file` against its size. `where` names the file in messages.
//   INVALID_ARGUMENT: truncated, a header that is longer than the file or not what the format asks
//   for, an unknown dtype, a shape that does not fill its byte range, ranges that overlap, leave
//   holes or leave the file, a name given twice.
absl::StatusOr<SafetensorsEntries> ParseSafetensors(std::span<const uint8_t> file,
                                                    const std::string& where);

// The DType of a header's dtype; none for those that no tensor here may have ("I64", "F8_E4M3").
std::optional<DType> DTypeFromName(const std::string& name);

// A mapped file and its entries. Immutable.
struct SafetensorsFile {
  std::string path;
  std::shared_ptr<const MappedFile> file;
  SafetensorsEntries entries;

  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
};

}  // namespace intermix
