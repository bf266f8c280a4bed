#include "comm/self_communicator.h"

#include <cstring>

#include "kernels/core/check.h"

namespace intermix {
namespace {

class SelfCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void Broadcast(void*, size_t, int root) override { CHECK_EQ(root, 0); }
  void AllGather(const void* in, void* out, std::span<const int64_t> bytes) override {
    CHECK_EQ(bytes.size(), 1u);
    if (bytes[0] > 0) std::memcpy(out, in, static_cast<size_t>(bytes[0]));
  }
  void AllToAll(const void* in, std::span<const int64_t> send_bytes, void* out,
                std::span<const int64_t> recv_bytes) override {
    CHECK_EQ(send_bytes[0], recv_bytes[0]);
    AllGather(in, out, recv_bytes);
  }
  void AllReduceMax(float*, int64_t) override {}
  void Merge(void*, int64_t) override {}
  void Barrier() override {}
  std::unique_ptr<Communicator> Split(int, int) override { return MakeSelfCommunicator(); }
};

}  // namespace

std::unique_ptr<Communicator> MakeSelfCommunicator() {
  return std::make_unique<SelfCommunicator>();
}

}  // namespace intermix
