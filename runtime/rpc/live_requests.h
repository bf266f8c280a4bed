// LiveRequests: the Generate calls that are under way, so that they can be counted and aborted.
// Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "runtime/engine/engine.h"

namespace intermix {

class LiveRequests {
 public:
  // Adds a call with the id that its client gave it, which may be empty or not unique; the number
  // to remove it by.
  uint64_t Add(const std::string& id, const Engine::Streams& streams);
  void Remove(uint64_t number);

  int size() const;

  // Cancels the calls of this id, or all; how many there were.
  int Abort(const std::string& id);
  int AbortAll();

 private:
  struct Live {
    std::string id;
    Engine::Streams streams;
  };

  mutable std::mutex mutex_;  // guards what follows
  std::map<uint64_t, Live> live_;
  uint64_t num_added_ = 0;
};

}  // namespace intermix
