// Streams, events and graphs: operations with what they wait for. An operation runs only when the
// host must wait for it, so work that was left unordered is seen to be so.
//
// All of it is guarded by its device's mutex (device.h).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/emulator/include/cuda_runtime.h"

namespace emu {

// For each stream of a device, by its id: how many of its operations are known to have run.
class StreamClock {
 public:
  bool Covers(int stream, uint64_t index) const;
  void Join(const StreamClock& other);
  void Set(int stream, uint64_t index);

 private:
  std::vector<uint64_t> indices_;
};

struct Operation {
  std::string what;
  std::function<void()> run;                        // empty: only a point in the stream
  std::vector<std::shared_ptr<Operation>> after;    // what has not run of those it follows
  std::vector<std::shared_ptr<Operation>> follows;  // until it runs
  CUstream_st* stream = nullptr;
  int stream_id = 0;
  uint64_t index = 0;  // in its stream, from 1
  StreamClock inputs;  // all that is ordered before it
  StreamClock before;  // that and itself
  // Once it has run: what is ordered before the start of a kernel that follows it and starts early.
  StreamClock shown;
  bool done = false;
};
using OperationRef = std::shared_ptr<Operation>;

// What an API call asks for: `make` gives the body of one execution (a graph asks several times).
struct Request {
  std::string what;
  std::function<std::function<void()>()> make;
};

}  // namespace emu

struct CUstream_st {
  int device = 0;
  int id = 0;
  bool blocking = false;  // waits for, and is waited for by, the default stream
  uint64_t num_operations = 0;
  std::deque<emu::OperationRef> queue;  // not yet run
  emu::OperationRef last;               // the newest, run or not
  CUgraph_st* capture = nullptr;        // where calls are recorded instead
  std::vector<int> capture_after;       // nodes that the next one follows
};

struct CUevent_st {
  int device = 0;
  emu::OperationRef recorded;
  CUgraph_st* capture = nullptr;  // recorded in a capture: after these nodes
  std::vector<int> capture_after;
};

struct CUgraph_st {
  struct Node {
    emu::Request request;
    std::vector<int> after;
    int branch = 0;  // the id of the stream that it was captured on
  };
  int device = 0;
  std::vector<Node> nodes;
  std::vector<CUstream_st*> streams;  // while capturing; the first began it
  bool invalid = false;
};

struct CUgraphExec_st {
  int device = 0;
  std::vector<CUgraph_st::Node> nodes;
  std::vector<CUstream_st*> branches;  // by node, the hidden stream that it runs on
};
