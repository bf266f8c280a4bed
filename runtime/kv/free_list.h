// FreeList: numbers 0 .. size - 1 in an order, each in it or not; both ends and the middle change
// in constant time. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/core/check.h"

namespace intermix {

class FreeList {
 public:
  // Empty, for numbers below `limit`.
  explicit FreeList(int32_t limit) : previous_(limit + 1, kOut), next_(limit + 1, kOut) {
    previous_[limit] = next_[limit] = limit;  // the ring's joint, before the front
  }

  int32_t size() const { return size_; }
  bool contains(int32_t number) const { return next_[number] != kOut; }

  void PushFront(int32_t number) { InsertBefore(number, next_[joint()]); }
  void PushBack(int32_t number) { InsertBefore(number, joint()); }

  int32_t front() const {
    const int32_t number = next_[joint()];
    CHECK_NE(number, joint());
    return number;
  }

  int32_t PopFront() {
    const int32_t number = front();
    Remove(number);
    return number;
  }

  void Remove(int32_t number) {
    CHECK(contains(number));
    next_[previous_[number]] = next_[number];
    previous_[next_[number]] = previous_[number];
    previous_[number] = next_[number] = kOut;
    --size_;
  }

 private:
  static constexpr int32_t kOut = -1;

  int32_t joint() const { return static_cast<int32_t>(next_.size()) - 1; }

  void InsertBefore(int32_t number, int32_t successor) {
    CHECK(!contains(number));
    next_[number] = successor;
    previous_[number] = previous_[successor];
    next_[previous_[number]] = number;
    previous_[successor] = number;
    ++size_;
  }

  std::vector<int32_t> previous_;  // [limit + 1]
  std::vector<int32_t> next_;      // [limit + 1]
  int32_t size_ = 0;
};

}  // namespace intermix
