#include "tests/testing/run_ranks.h"

#include <thread>
#include <utility>
#include <vector>

#include "comm/self_communicator.h"
#include "comm/thread_communicator.h"

namespace intermix {

void RunRanks(int size, const std::function<void(std::unique_ptr<Communicator> world)>& body) {
  if (size == 1) return body(MakeSelfCommunicator());
  std::vector<std::unique_ptr<Communicator>> worlds = MakeThreadCommunicators(size);
  std::vector<std::jthread> threads;
  for (std::unique_ptr<Communicator>& world : worlds) {
    threads.emplace_back([&body, w = std::move(world)]() mutable { body(std::move(w)); });
  }
}

}  // namespace intermix
