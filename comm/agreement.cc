#include "comm/agreement.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

constexpr size_t kMaxMessage = 1000;

// One rank's verdict in a fixed size, so that one AllGather is enough.
struct Verdict {
  int32_t code = 0;
  std::array<char, kMaxMessage + 1> message{};
};

}  // namespace

absl::Status AgreeOnStatus(Communicator& world, const absl::Status& mine) {
  Verdict verdict{.code = static_cast<int32_t>(mine.code())};
  const std::string text(mine.message());
  std::memcpy(verdict.message.data(), text.data(), std::min(text.size(), kMaxMessage));

  const int size = world.size();
  std::vector<Verdict> all(size);
  world.AllGather(&verdict, all.data(), std::vector<int64_t>(size, sizeof(Verdict)));

  const auto failed = [](const Verdict& v) { return v.code != 0; };
  const auto first = std::ranges::find_if(all, failed);
  if (first == all.end()) return absl::OkStatus();
  const bool alike = std::ranges::all_of(all, [&](const Verdict& v) {
    return v.code == first->code && std::strcmp(v.message.data(), first->message.data()) == 0;
  });
  const std::string message(first->message.data());
  return absl::Status(static_cast<absl::StatusCode>(first->code),
                      alike ? message : absl::StrCat("rank ", first - all.begin(), ": ", message));
}

std::vector<std::string> GatherTexts(Communicator& world, const std::string& mine) {
  const int64_t size = std::ssize(mine);
  std::vector<int64_t> sizes(world.size());
  world.AllGather(&size, sizes.data(), std::vector<int64_t>(world.size(), sizeof(size)));
  std::string all(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}), '\0');
  world.AllGather(mine.data(), all.data(), sizes);
  std::vector<std::string> texts;
  size_t begin = 0;
  for (const int64_t bytes : sizes) {
    texts.push_back(all.substr(begin, bytes));
    begin += bytes;
  }
  return texts;
}

bool AgreeThat(Communicator& world, bool mine) {
  const char verdict = mine ? 1 : 0;
  std::vector<char> all(world.size());
  world.AllGather(&verdict, all.data(), std::vector<int64_t>(world.size(), 1));
  return std::ranges::find(all, 0) == all.end();
}

}  // namespace intermix
