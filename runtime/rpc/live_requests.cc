#include "runtime/rpc/live_requests.h"

#include <vector>

namespace intermix {

void LiveRequests::SetLimit(int max_calls) {
  const std::lock_guard lock(mutex_);
  limit_ = max_calls;
}

std::optional<uint64_t> LiveRequests::Add(const std::weak_ptr<LiveCall>& call) {
  const std::lock_guard lock(mutex_);
  if (static_cast<int>(live_.size()) >= limit_) return std::nullopt;
  live_.emplace(++num_added_, Live{.id = "", .call = call});
  return num_added_;
}

void LiveRequests::SetId(uint64_t number, const std::string& id) {
  const std::lock_guard lock(mutex_);
  if (const auto it = live_.find(number); it != live_.end()) it->second.id = id;
}

void LiveRequests::Remove(uint64_t number) {
  const std::lock_guard lock(mutex_);
  live_.erase(number);
}

int LiveRequests::size() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int>(live_.size());
}

int LiveRequests::limit() const {
  const std::lock_guard lock(mutex_);
  return limit_;
}

int LiveRequests::End(const std::function<bool(const Live&)>& wanted,
                      const std::function<void(LiveCall&)>& end) {
  std::vector<std::shared_ptr<LiveCall>> calls;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [number, live] : live_) {
      if (!wanted(live)) continue;
      if (std::shared_ptr<LiveCall> call = live.call.lock()) calls.push_back(std::move(call));
    }
  }
  for (const std::shared_ptr<LiveCall>& call : calls) end(*call);
  return static_cast<int>(calls.size());
}

int LiveRequests::Abort(const std::string& id) {
  return End([&](const Live& live) { return live.id == id; }, [](LiveCall& c) { c.Abort(); });
}

int LiveRequests::AbortAll() {
  return End([](const Live&) { return true; }, [](LiveCall& call) { call.Abort(); });
}

void LiveRequests::FailAll(const absl::Status& status) {
  End([](const Live&) { return true; }, [&](LiveCall& call) { call.Fail(status); });
}

}  // namespace intermix
