#include "runtime/rpc/live_requests.h"

namespace intermix {
namespace {

void Cancel(const Engine::Streams& streams) {
  for (const std::shared_ptr<RequestStream>& stream : streams) stream->Cancel();
}

}  // namespace

uint64_t LiveRequests::Add(const std::string& id, const Engine::Streams& streams) {
  const std::lock_guard lock(mutex_);
  live_.emplace(++num_added_, Live{.id = id, .streams = streams});
  return num_added_;
}

void LiveRequests::Remove(uint64_t number) {
  const std::lock_guard lock(mutex_);
  live_.erase(number);
}

int LiveRequests::size() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(live_.size());
}

int LiveRequests::Abort(const std::string& id) {
  const std::lock_guard lock(mutex_);
  int count = 0;
  for (const auto& [number, live] : live_) {
    if (live.id != id) continue;
    Cancel(live.streams);
    ++count;
  }
  return count;
}

int LiveRequests::AbortAll() {
  const std::lock_guard lock(mutex_);
  for (const auto& [number, live] : live_) Cancel(live.streams);
  return static_cast<int>(live_.size());
}

}  // namespace intermix
