#include "runtime/engine/batch_channel.h"

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "kernels/core/check.h"

namespace intermix {
namespace {

constexpr size_t kHeadWords = 1024;  // of the first broadcast; word 0 counts all words

using Head = std::array<int32_t, kHeadWords>;

}  // namespace

void SendBatch(Communicator& world, const Batch& batch) {
  std::vector<int32_t> words = batch.Serialize();
  Head head{};
  head[0] = static_cast<int32_t>(words.size());
  const size_t in_head = std::min(words.size(), kHeadWords - 1);
  std::copy_n(words.begin(), in_head, head.begin() + 1);
  world.Broadcast(head.data(), sizeof(head), 0);
  if (words.size() > in_head) {
    world.Broadcast(words.data() + in_head, (words.size() - in_head) * sizeof(int32_t), 0);
  }
}

Batch ReceiveBatch(Communicator& world) {
  Head head{};
  world.Broadcast(head.data(), sizeof(head), 0);
  std::vector<int32_t> words(static_cast<size_t>(head[0]));
  const size_t in_head = std::min(words.size(), kHeadWords - 1);
  std::copy_n(head.begin() + 1, in_head, words.begin());
  if (words.size() > in_head) {
    world.Broadcast(words.data() + in_head, (words.size() - in_head) * sizeof(int32_t), 0);
  }
  absl::StatusOr<Batch> batch = Batch::Deserialize(words);
  CHECK(batch.ok()) << batch.status().ToString();
  return *std::move(batch);
}

}  // namespace intermix
