// Communicator: a group of ranks that exchange host or device memory.
//
// Collectives: every rank of the group calls the same one in the same order, also with zero bytes.
// A failed peer or transport is fatal and ends the process (and, through MPI, the job): there is no
// status to handle in the middle of a step. Not thread-safe; owned by the rank's engine thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace intermix {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Rank `root`'s bytes to everyone. May wait for long (an idle engine): costs no CPU while it
  // does.
  virtual void Broadcast(void* data, size_t bytes, int root) = 0;

  // in [bytes[rank]] of every rank -> out: the ranks' bytes one after the other, on every rank.
  //   bytes  [size], equal on all ranks
  virtual void AllGather(const void* in, void* out, std::span<const int64_t> bytes) = 0;

  // in: send_bytes[0] bytes for rank 0, then send_bytes[1] for rank 1, ...
  // out: recv_bytes[0] bytes from rank 0, then ...
  // send_bytes[r] here equals recv_bytes[this rank] on rank r.
  virtual void AllToAll(const void* in, std::span<const int64_t> send_bytes, void* out,
                        std::span<const int64_t> recv_bytes) = 0;

  // AllToAll in two parts, so that the device may work between them. It begins once the device's
  // work so far is done; `in` and `out` are its own until it was waited for. Several may be under
  // way, and run in the order in which they were started. Until all were waited for, no other
  // collective of the job's groups for the device's memory may be called, so that all ranks run
  // them in one order. Returns what to give to WaitForAllToAll.
  virtual int64_t StartAllToAll(const void* in, std::span<const int64_t> send_bytes, void* out,
                                std::span<const int64_t> recv_bytes) {
    AllToAll(in, send_bytes, out, recv_bytes);
    return 0;
  }
  // What the device is given from now on comes after that exchange and those started before it.
  virtual void WaitForAllToAll(int64_t) {}
  // Whether the device can work while an exchange is under way; the same on all ranks.
  virtual bool overlaps() const { return false; }

  // Element-wise maximum over the ranks, in place. No element may be NaN.
  virtual void AllReduceMax(float* data, int64_t count) = 0;

  // Puts together what the ranks hold in parts, in place: of each 4-byte word, at most one rank
  // holds other than zero, and every rank gets that one. Exact whatever the words mean.
  virtual void Merge(void* words, int64_t count) = 0;

  virtual void Barrier() = 0;

  // The ranks that gave the same color form a new group, ordered by key (then by rank here).
  virtual std::unique_ptr<Communicator> Split(int color, int key) = 0;
};

}  // namespace intermix
