// Which kind of tokenizer a model directory has.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "runtime/tokenizer/read_tokenizer.h"

namespace intermix {
namespace {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  constexpr uint64_t kMaxBytes = uint64_t{256} << 20;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::NotFoundError(absl::StrCat("there is no file ", path));
  }
  const uint64_t size = std::filesystem::file_size(path, error);
  if (error || size > kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is too large for a tokenizer"));
  }
  std::string bytes(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path));
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory) {
  const std::string model = absl::StrCat(directory, "/tokenizer.model");
  const std::string json = absl::StrCat(directory, "/tokenizer.json");
  std::error_code error;
  const bool byte_level =
      !std::filesystem::exists(model, error) && std::filesystem::exists(json, error);
  const std::string& path = byte_level ? json : model;
  const absl::StatusOr<std::string> bytes = ReadFile(path);
  if (!bytes.ok()) return bytes.status();
  return byte_level ? ReadByteLevelTokenizer(*bytes, path)
                    : ReadSentencePieceTokenizer(*bytes, path);
}

}  // namespace intermix
