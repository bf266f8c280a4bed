#include "launch/rendezvous.h"

#include <unistd.h>

#include <array>
#include <cstring>

#include "kernels/core/check.h"

namespace intermix {
namespace {

struct Message {
  std::array<char, 512> address;  // null-terminated
  std::array<char, 64> job_id;    // null-terminated
};

template <size_t kSize>
void Put(const std::string& text, std::array<char, kSize>& field) {
  CHECK_LT(text.size(), kSize) << text;
  std::memcpy(field.data(), text.c_str(), text.size() + 1);
}

std::string ReachableAddress(ListenAddress address, bool one_host) {
  if (address.host == "0.0.0.0" || address.host == "::") {
    std::array<char, 256> name{};
    const bool named = gethostname(name.data(), name.size() - 1) == 0;
    const std::string loopback = address.host == "::" ? "::1" : "127.0.0.1";
    address.host = one_host || !named ? loopback : std::string(name.data());
  }
  return address.ToString();
}

}  // namespace

ControlClientOptions ShareControlAddress(Communicator& world, bool one_host,
                                         const RpcServer* server) {
  Message message{};
  if (server != nullptr) {
    Put(ReachableAddress(server->address(), one_host), message.address);
    Put(server->job_id(), message.job_id);
  }
  world.Broadcast(&message, sizeof(message), 0);
  return {.address = message.address.data(), .job_id = message.job_id.data()};
}

}  // namespace intermix
