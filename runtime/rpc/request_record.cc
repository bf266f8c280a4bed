#include "runtime/rpc/request_record.h"

namespace intermix {
namespace {

bool IsHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool IsZero(std::string_view text) { return text.find_first_not_of('0') == std::string_view::npos; }

}  // namespace

//   version "-" trace-id "-" parent-id "-" trace-flags
std::string ValidTraceparent(std::string_view header) {
  constexpr size_t kSize = 2 + 1 + 32 + 1 + 16 + 1 + 2;
  const std::string_view known = header.substr(0, kSize);
  if (known.size() != kSize || known[2] != '-' || known[35] != '-' || known[52] != '-') return "";
  const std::string_view version = known.substr(0, 2);
  const std::string_view trace_id = known.substr(3, 32);
  const std::string_view parent_id = known.substr(36, 16);
  const bool longer = header.size() > kSize;
  if (longer && (version == "00" || header[kSize] != '-')) return "";
  if (!IsHex(version) || version == "ff" || !IsHex(trace_id) || !IsHex(parent_id) ||
      !IsHex(known.substr(53)) || IsZero(trace_id) || IsZero(parent_id)) {
    return "";
  }
  return std::string(known);
}

}  // namespace intermix
