#include "tests/emulator/nccl_link.h"

#include <mpi.h>
#include <sched.h>

#include <chrono>
#include <cstring>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace emu {
namespace {

using Clock = std::chrono::steady_clock;

struct Id {
  int over_mpi;
  int maker;   // the MPI rank that made it
  int number;  // of its maker's
};

Id Read(const ncclUniqueId& id) {
  Id read;
  std::memcpy(&read, id.internal, sizeof(read));
  return read;
}

bool IsMpiRank() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  return initialized != 0;
}

int MpiRank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

// Polls `done` until it is true; false where that takes too long.
template <typename Done>
bool WaitFor(const Done& done) {
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(kNcclPatienceMs);
  for (int polls = 0; !done();) {
    if (Clock::now() > end) return false;
    PauseBetweenPolls(&polls);
  }
  return true;
}

// --- threads of one process ---

struct Hub {
  explicit Hub(int n) : num_ranks(n), queues(static_cast<size_t>(2 * n * n)) {}
  const int num_ranks;
  std::mutex mutex;
  int arrived = 0;
  std::vector<std::deque<Message>> queues;  // [channel, from, to]
};

class ThreadLink final : public NcclLink {
 public:
  ThreadLink(std::shared_ptr<Hub> hub, int rank) : hub_(std::move(hub)), rank_(rank) {}
  void Send(Channel channel, int to, Message message) override {
    const std::lock_guard lock(hub_->mutex);
    Queue(channel, rank_, to).push_back(std::move(message));
  }
  bool TryReceive(Channel channel, int from, Message* message) override {
    const std::lock_guard lock(hub_->mutex);
    std::deque<Message>& queue = Queue(channel, from, rank_);
    if (queue.empty()) return false;
    *message = std::move(queue.front());
    queue.pop_front();
    return true;
  }

 private:
  std::deque<Message>& Queue(int channel, int from, int to) {
    return hub_
        ->queues[static_cast<size_t>((channel * hub_->num_ranks + from) * hub_->num_ranks + to)];
  }
  std::shared_ptr<Hub> hub_;
  int rank_;
};

std::unique_ptr<NcclLink> ConnectThreads(int number, int num_ranks, int rank,
                                         std::string* problem) {
  static std::mutex hubs_mutex;
  static std::map<int, std::weak_ptr<Hub>> hubs;
  std::shared_ptr<Hub> hub;
  {
    const std::lock_guard lock(hubs_mutex);
    hub = hubs[number].lock();
    if (hub == nullptr) hubs[number] = hub = std::make_shared<Hub>(num_ranks);
    ++hub->arrived;
  }
  if (hub->num_ranks != num_ranks) {
    *problem = "ranks disagree on their number";
    return nullptr;
  }
  const bool all = WaitFor([&] {
    const std::lock_guard lock(hubs_mutex);
    return hub->arrived == num_ranks;
  });
  if (!all) *problem = "not all ranks came to ncclCommInitRank";
  return all ? std::make_unique<ThreadLink>(std::move(hub), rank) : nullptr;
}

// --- MPI ---

// On MPI_COMM_WORLD, which nobody else sends on: MpiSession works on copies of it.
class MpiLink final : public NcclLink {
 public:
  explicit MpiLink(int tag) : tag_(tag) {}
  ~MpiLink() override {
    const bool sent = WaitFor([this] { return AllSent(); });
    if (!sent) new std::list<Sending>(std::move(sending_));  // a dead peer's; MPI still reads it
  }

  void Send(Channel channel, int to, Message message) override {
    SendTo(mpi_ranks_[static_cast<size_t>(to)], channel, std::move(message));
  }
  bool TryReceive(Channel channel, int from, Message* message) override {
    return TryReceiveFrom(mpi_ranks_[static_cast<size_t>(from)], channel, message);
  }

  // Everybody tells the maker of the id who is who, and hears it from there.
  bool Meet(int maker, int num_ranks, int rank) {
    const int me = MpiRank();
    std::vector<int> table(static_cast<size_t>(num_ranks), -1);
    if (me != maker) {
      const int hello[2] = {rank, me};
      SendTo(
          maker, kHost,
          Message(reinterpret_cast<const char*>(hello), reinterpret_cast<const char*>(hello + 2)));
      Message reply;
      if (!WaitFor([&] { return TryReceiveFrom(maker, kHost, &reply); })) return false;
      std::memcpy(table.data(), reply.data(), table.size() * sizeof(int));
    } else {
      table[static_cast<size_t>(rank)] = me;
      for (int i = 1; i < num_ranks; ++i) {
        Message hello;
        if (!WaitFor([&] { return TryReceiveFrom(MPI_ANY_SOURCE, kHost, &hello); })) return false;
        int who[2];
        std::memcpy(who, hello.data(), sizeof(who));
        table[static_cast<size_t>(who[0])] = who[1];
      }
      const char* bytes = reinterpret_cast<const char*>(table.data());
      for (int other : table) {
        if (other != me) SendTo(other, kHost, Message(bytes, bytes + table.size() * sizeof(int)));
      }
    }
    mpi_ranks_ = std::move(table);
    return true;
  }

 private:
  struct Sending {
    Message message;
    MPI_Request request;
  };

  bool AllSent() {
    sending_.remove_if([](Sending& sent) {
      int done = 0;
      MPI_Test(&sent.request, &done, MPI_STATUS_IGNORE);
      return done != 0;
    });
    return sending_.empty();
  }

  void SendTo(int mpi_rank, Channel channel, Message message) {
    AllSent();  // forgets those that are
    Sending& next = sending_.emplace_back(Sending{std::move(message), MPI_REQUEST_NULL});
    MPI_Isend(next.message.data(), static_cast<int>(next.message.size()), MPI_BYTE, mpi_rank,
              tag_ + channel, MPI_COMM_WORLD, &next.request);
  }

  bool TryReceiveFrom(int mpi_rank, Channel channel, Message* message) {
    int found = 0;
    MPI_Status status;
    MPI_Iprobe(mpi_rank, tag_ + channel, MPI_COMM_WORLD, &found, &status);
    if (found == 0) return false;
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    message->resize(static_cast<size_t>(bytes));
    MPI_Recv(message->data(), bytes, MPI_BYTE, status.MPI_SOURCE, tag_ + channel, MPI_COMM_WORLD,
             MPI_STATUS_IGNORE);
    return true;
  }

  int tag_;
  std::vector<int> mpi_ranks_;
  std::list<Sending> sending_;
};

std::unique_ptr<NcclLink> ConnectMpi(const Id& id, int num_ranks, int rank, std::string* problem) {
  int world = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &world);
  constexpr int kFirstTag = 1000;
  auto link = std::make_unique<MpiLink>(kFirstTag + 2 * (id.number * world + id.maker));
  if (link->Meet(id.maker, num_ranks, rank)) return link;
  *problem = "not all ranks came to ncclCommInitRank";
  return nullptr;
}

}  // namespace

ncclUniqueId MakeNcclId() {
  static std::mutex mutex;
  static int next = 0;
  const bool over_mpi = IsMpiRank();
  const std::lock_guard lock(mutex);
  const Id made = {.over_mpi = over_mpi, .maker = over_mpi ? MpiRank() : 0, .number = next++};
  ncclUniqueId id = {};
  std::memcpy(id.internal, &made, sizeof(made));
  return id;
}

std::unique_ptr<NcclLink> Connect(const ncclUniqueId& id, int num_ranks, int rank,
                                  std::string* problem) {
  const Id read = Read(id);
  return read.over_mpi != 0 ? ConnectMpi(read, num_ranks, rank, problem)
                            : ConnectThreads(read.number, num_ranks, rank, problem);
}

void PauseBetweenPolls(int* polls) {
  if (++*polls < 200) {
    sched_yield();
  } else {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

}  // namespace emu
