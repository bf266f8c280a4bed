#include "tests/emulator/nccl_execution.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "tests/emulator/report.h"

namespace emu {

const char* KindName(Kind kind) {
  constexpr const char* kNames[] = {"a broadcast",      "an all-gather", "an all-reduce",
                                    "a reduce-scatter", "a send",        "a split"};
  return kNames[static_cast<int>(kind)];
}

std::string Header::ToString() const {
  std::string text = KindName(kind);
  if (kind != Kind::kPeer) text += " (number " + std::to_string(number) + ")";
  return text + " of " + std::to_string(count) + " elements of type " + std::to_string(type) +
         ", op " + std::to_string(op) + ", root " + std::to_string(root);
}

size_t Call::bytes() const {
  const bool narrow = header.type == ncclInt8 || header.type == ncclUint8;
  return header.count * (narrow ? 1 : 4);
}

Message Pack(const Header& header, const void* data, size_t bytes) {
  Message message(sizeof(Header) + bytes);
  std::memcpy(message.data(), &header, sizeof(Header));
  if (bytes > 0) std::memcpy(message.data() + sizeof(Header), data, bytes);
  return message;
}

bool Take(Comm& comm, NcclLink::Channel channel, int from, const Header& header, Message* payload) {
  using Clock = std::chrono::steady_clock;
  const auto who = [&](int rank) {
    return "rank " + std::to_string(rank) + " of " + std::to_string(comm.num_ranks);
  };
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(kNcclPatienceMs);
  for (int polls = 0; !comm.link->TryReceive(channel, from, payload);) {
    if (comm.aborted) return false;
    if (Clock::now() > end) {
      comm.Fail(ncclRemoteError, who(from) + " is missing");
      Violate(Violation::kInvalidArgument, "NCCL: " + who(comm.rank) + " waits in vain for " +
                                               who(from) + " in " + header.ToString());
      return false;
    }
    PauseBetweenPolls(&polls);
  }
  Header theirs;
  std::memcpy(&theirs, payload->data(), sizeof(Header));
  if (!(theirs == header)) {
    comm.Fail(ncclInvalidUsage, "mismatched calls");
    Violate(Violation::kInvalidArgument, "NCCL: " + who(comm.rank) + " is in " + header.ToString() +
                                             ", but " + who(from) + " is in " + theirs.ToString());
    return false;
  }
  payload->erase(payload->begin(), payload->begin() + sizeof(Header));
  return true;
}

namespace {

template <typename T>
void Combine(ncclRedOp_t op, const Message& from, T* to) {
  for (size_t i = 0; i < from.size() / sizeof(T); ++i) {
    T value;
    std::memcpy(&value, from.data() + i * sizeof(T), sizeof(T));
    switch (op) {
      case ncclSum:
        to[i] = static_cast<T>(to[i] + value);
        break;
      case ncclProd:
        to[i] = static_cast<T>(to[i] * value);
        break;
      case ncclMax:
        to[i] = std::max(to[i], value);
        break;
      case ncclMin:
        to[i] = std::min(to[i], value);
        break;
    }
  }
}

void CombineAs(const Header& header, const Message& from, void* to) {
  const ncclRedOp_t op = static_cast<ncclRedOp_t>(header.op);
  switch (static_cast<ncclDataType_t>(header.type)) {
    case ncclInt8:
      return Combine(op, from, static_cast<int8_t*>(to));
    case ncclUint8:
      return Combine(op, from, static_cast<uint8_t*>(to));
    case ncclInt32:
      return Combine(op, from, static_cast<int32_t*>(to));
    case ncclUint32:
      return Combine(op, from, static_cast<uint32_t*>(to));
    case ncclFloat32:
      return Combine(op, from, static_cast<float*>(to));
  }
}

class Execution {
 public:
  Execution(Device& device, Comm& comm, std::vector<Call> calls)
      : device_(device), comm_(comm), calls_(std::move(calls)) {}

  void Run() {
    for (Call& call : calls_) {
      if (call.header.kind != Kind::kPeer) call.header.number = ++comm_.num_collectives;
    }
    for (const Call& call : calls_) Send(call);
    for (const Call& call : calls_) {
      if (!Receive(call)) return;
    }
  }

 private:
  const char* Read(const Call& call, size_t offset, size_t bytes) {
    const char* from = static_cast<const char*>(call.in) + offset;
    device_.TouchMemory(std::string("NCCL, ") + KindName(call.header.kind), from, bytes, false);
    return from;
  }
  void Write(const Call& call, size_t offset, const void* data, size_t bytes) {
    char* to = static_cast<char*>(call.out) + offset;
    device_.TouchMemory(std::string("NCCL, ") + KindName(call.header.kind), to, bytes, true);
    std::memcpy(to, data, bytes);
  }

  void Send(const Call& call) {
    if (call.header.kind == Kind::kPeer) {
      if (call.in != nullptr) SendTo(call.peer, call, 0, call.bytes());
      return;
    }
    for (int r = 0; r < comm_.num_ranks; ++r) {
      const bool silent = call.header.kind == Kind::kBroadcast && call.header.root != comm_.rank;
      const bool parts = call.header.kind == Kind::kReduceScatter;
      SendTo(r, call, parts ? static_cast<size_t>(r) * call.bytes() : 0, silent ? 0 : call.bytes());
    }
  }
  void SendTo(int to, const Call& call, size_t offset, size_t bytes) {
    const char* data = bytes > 0 ? Read(call, offset, bytes) : nullptr;
    comm_.link->Send(NcclLink::kStream, to, Pack(call.header, data, bytes));
  }

  bool Receive(const Call& call) {
    Message payload;
    if (call.header.kind == Kind::kPeer) {
      if (call.out == nullptr) return true;
      if (!Take(comm_, NcclLink::kStream, call.peer, call.header, &payload)) return false;
      Write(call, 0, payload.data(), payload.size());
      return true;
    }
    Message sum;
    for (int r = 0; r < comm_.num_ranks; ++r) {
      if (!Take(comm_, NcclLink::kStream, r, call.header, &payload)) return false;
      if (call.header.kind == Kind::kAllGather) {
        Write(call, static_cast<size_t>(r) * call.bytes(), payload.data(), payload.size());
      } else if (call.header.kind == Kind::kBroadcast) {
        if (r == call.header.root) Write(call, 0, payload.data(), payload.size());
      } else if (r == 0) {
        sum = std::move(payload);
      } else {
        CombineAs(call.header, payload, sum.data());
      }
    }
    if (!sum.empty()) Write(call, 0, sum.data(), sum.size());
    return true;
  }

  Device& device_;
  Comm& comm_;
  std::vector<Call> calls_;
};

}  // namespace

void RunCalls(Device& device, Comm& comm, const std::vector<Call>& calls) {
  Execution(device, comm, calls).Run();
}

}  // namespace emu
