// LiveRequests: the Generate calls that are under way, so that they can be limited, counted and
// ended. Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"

namespace intermix {

// A call, as others may end it. Both may be called on any thread, and when it is over already.
class LiveCall {
 public:
  virtual ~LiveCall() = default;
  virtual void Abort() = 0;                           // it ends CANCELLED within one step
  virtual void Fail(const absl::Status& status) = 0;  // ends it without the engine's help
};

class LiveRequests {
 public:
  // Calls that may be live at a time; no limit before.
  void SetLimit(int max_calls);

  // Adds a call; the number to remove it by, or nothing where as many as may be live are.
  std::optional<uint64_t> Add(const std::weak_ptr<LiveCall>& call);
  // The id that its client gave it, which may be empty or not unique.
  void SetId(uint64_t number, const std::string& id);
  void Remove(uint64_t number);

  int size() const;
  int limit() const;

  // Aborts the calls of this id, or all; how many there were.
  int Abort(const std::string& id);
  int AbortAll();

  void FailAll(const absl::Status& status);

 private:
  struct Live {
    std::string id;
    std::weak_ptr<LiveCall> call;
  };

  // Calls `end` with each call that `wanted` names, without the lock; how many.
  int End(const std::function<bool(const Live&)>& wanted,
          const std::function<void(LiveCall&)>& end);

  mutable std::mutex mutex_;  // guards what follows
  std::map<uint64_t, Live> live_;
  uint64_t num_added_ = 0;
  int limit_ = std::numeric_limits<int>::max();
};

}  // namespace intermix
