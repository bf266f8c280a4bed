#include "runtime/tokenizer/sentencepiece_model.h"

#include <bit>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

// One field of a protobuf message: a number for wire type 0, bytes for wire type 2.
struct Field {
  uint64_t number = 0;
  uint64_t wire_type = 0;
  uint64_t varint = 0;
  std::string_view bytes;
};

bool ReadVarint(std::string_view& rest, uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 64 && !rest.empty(); shift += 7) {
    const uint8_t byte = static_cast<uint8_t>(rest[0]);
    rest.remove_prefix(1);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

bool ReadBytes(std::string_view& rest, uint64_t count, std::string_view& bytes) {
  if (count > rest.size()) return false;
  bytes = rest.substr(0, count);
  rest.remove_prefix(count);
  return true;
}

bool ReadField(std::string_view& rest, Field& field) {
  uint64_t tag = 0;
  if (!ReadVarint(rest, tag)) return false;
  field = {.number = tag >> 3, .wire_type = tag & 7};
  uint64_t length = 0;
  switch (field.wire_type) {
    case 0:
      return ReadVarint(rest, field.varint);
    case 1:
      return ReadBytes(rest, 8, field.bytes);
    case 2:
      return ReadVarint(rest, length) && ReadBytes(rest, length, field.bytes);
    case 5:
      return ReadBytes(rest, 4, field.bytes);
    default:
      return false;
  }
}

// Calls `visit` for each field until it returns false; false also where the bytes are no message.
bool ForEachField(std::string_view message, const std::function<bool(const Field&)>& visit) {
  Field field;
  while (!message.empty()) {
    if (!ReadField(message, field) || !visit(field)) return false;
  }
  return true;
}

uint32_t LittleEndian(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value |= uint32_t{static_cast<uint8_t>(bytes[at + i])} << (8 * i);
  return value;
}

// Walks a darts-clone double array of 32-bit units from its root: every unit that any text can lead
// to stands inside, and so does every value, an offset into `num_values` bytes.
bool TrieStaysInside(std::string_view trie, size_t num_values) {
  const size_t num_units = trie.size() / 4;
  const auto unit_at = [&](size_t i) { return LittleEndian(trie, 4 * i); };
  std::vector<bool> seen(num_units, false);
  std::vector<size_t> open = {0};
  seen[0] = true;
  while (!open.empty()) {
    const size_t position = open.back();
    open.pop_back();
    const uint32_t unit = unit_at(position);
    const size_t base = position ^ (size_t{unit >> 10} << ((unit & 0x200u) >> 6));
    if ((base | 0xFF) >= num_units) return false;
    const bool has_leaf = (unit & 0x100u) != 0;
    if (has_leaf && (unit_at(base) & 0x7FFFFFFFu) >= num_values) return false;
    for (size_t byte = 0; byte < 256; ++byte) {
      const size_t child = base ^ byte;
      if ((unit_at(child) & 0x800000FFu) != byte || seen[child]) continue;
      seen[child] = true;
      open.push_back(child);
    }
  }
  return true;
}

// NormalizerSpec.precompiled_charsmap: 4 bytes of trie length, the trie, the texts it leads to.
bool CharsMapIsSound(std::string_view table) {
  if (table.empty()) return true;
  if (table.size() < 4) return false;
  const uint32_t trie_bytes = LittleEndian(table, 0);
  if (trie_bytes < 1024 || trie_bytes % 4 != 0 || trie_bytes >= table.size() - 4) return false;
  return TrieStaysInside(table.substr(4, trie_bytes), table.size() - 4 - trie_bytes);
}

bool Flag(const Field& field) { return field.varint != 0; }

bool ReadNormalizer(std::string_view message, SentencePieceModel& model) {
  return ForEachField(message, [&](const Field& field) {
    if (field.number == 2 && field.wire_type == 2) {
      if (!CharsMapIsSound(field.bytes)) return false;
      model.chars_map = field.bytes;
    }
    if (field.wire_type != 0) return true;
    if (field.number == 3) model.add_dummy_prefix = Flag(field);
    if (field.number == 4) model.remove_extra_whitespaces = Flag(field);
    if (field.number == 5) model.escape_whitespaces = Flag(field);
    return true;
  });
}

bool ReadTrainer(std::string_view message, SentencePieceModel& model) {
  return ForEachField(message, [&](const Field& field) {
    if (field.wire_type == 0) {
      if (field.number == 3 && (field.varint < 1 || field.varint > 4)) return false;
      if (field.number == 3) model.type = static_cast<SentencePieceModel::Type>(field.varint);
      if (field.number == 24) model.whitespace_is_suffix = Flag(field);
      if (field.number == 35) model.byte_fallback = Flag(field);
    } else if (field.wire_type == 2) {
      if (field.number == 46) model.bos_piece = field.bytes;
      if (field.number == 47) model.eos_piece = field.bytes;
    }
    return true;
  });
}

bool ReadPiece(std::string_view message, SentencePieceModel& model) {
  SentencePieceModel::Piece piece;
  const bool sound = ForEachField(message, [&](const Field& field) {
    if (field.number == 1 && field.wire_type == 2) piece.text = field.bytes;
    if (field.number == 2 && field.wire_type == 5) {
      piece.score = std::bit_cast<float>(LittleEndian(field.bytes, 0));
    }
    if (field.number == 3 && field.wire_type == 0) {
      if (field.varint < 1 || field.varint > 6) return false;
      piece.kind = static_cast<SentencePieceModel::Kind>(field.varint);
    }
    return true;
  });
  model.pieces.push_back(std::move(piece));
  return sound;
}

}  // namespace

absl::StatusOr<SentencePieceModel> ReadSentencePieceModel(std::string_view bytes,
                                                          const std::string& path) {
  SentencePieceModel model;
  const bool sound = ForEachField(bytes, [&](const Field& field) {
    if (field.wire_type != 2) return true;
    if (field.number == 1) return ReadPiece(field.bytes, model);
    if (field.number == 2) return ReadTrainer(field.bytes, model);
    if (field.number == 3) return ReadNormalizer(field.bytes, model);
    return true;
  });
  if (sound && !bytes.empty()) return model;
  return absl::InvalidArgumentError(absl::StrCat(path, " is damaged or not a SentencePiece model"));
}

}  // namespace intermix
