#include "comm/mpi_communicator.h"

#include <mpi.h>
#include <sched.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "comm/self_communicator.h"
#include "kernels/core/check.h"

namespace intermix {
namespace {

int ToInt(int64_t bytes) {
  CHECK(0 <= bytes && bytes <= std::numeric_limits<int>::max())
      << bytes << " bytes are too many for one message";
  return static_cast<int>(bytes);
}

struct Parts {
  std::vector<int> counts;
  std::vector<int> offsets;
};

Parts ToParts(std::span<const int64_t> bytes) {
  Parts parts;
  int64_t offset = 0;
  for (int64_t b : bytes) {
    parts.counts.push_back(ToInt(b));
    parts.offsets.push_back(ToInt(offset));
    offset += b;
  }
  return parts;
}

// Waits without burning a core for long: polls, then yields, then sleeps between polls. The sleeps
// only come when nothing arrived for 2 ms, so an active step never meets them.
void WaitPolitely(MPI_Request* request) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  for (int done = 0, polls = 0;; ++polls) {
    MPI_Test(request, &done, MPI_STATUS_IGNORE);
    if (done) return;
    if (polls < 100) continue;
    if (Clock::now() - start < std::chrono::milliseconds(2)) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
}

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm comm) : comm_(comm) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }
  ~MpiCommunicator() override { MPI_Comm_free(&comm_); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void Broadcast(void* data, size_t bytes, int root) override {
    MPI_Request request;
    MPI_Ibcast(data, ToInt(static_cast<int64_t>(bytes)), MPI_BYTE, root, comm_, &request);
    WaitPolitely(&request);
  }

  void AllGather(const void* in, void* out, std::span<const int64_t> bytes) override {
    CHECK_EQ(static_cast<int>(bytes.size()), size_);
    const Parts parts = ToParts(bytes);
    MPI_Allgatherv(in, parts.counts[rank_], MPI_BYTE, out, parts.counts.data(),
                   parts.offsets.data(), MPI_BYTE, comm_);
  }

  void AllToAll(const void* in, std::span<const int64_t> send_bytes, void* out,
                std::span<const int64_t> recv_bytes) override {
    CHECK_EQ(static_cast<int>(send_bytes.size()), size_);
    const Parts send = ToParts(send_bytes);
    const Parts recv = ToParts(recv_bytes);
    MPI_Alltoallv(in, send.counts.data(), send.offsets.data(), MPI_BYTE, out, recv.counts.data(),
                  recv.offsets.data(), MPI_BYTE, comm_);
  }

  void AllReduceMax(float* data, int64_t count) override {
    MPI_Allreduce(MPI_IN_PLACE, data, ToInt(count), MPI_FLOAT, MPI_MAX, comm_);
  }

  void Merge(void* words, int64_t count) override {
    MPI_Allreduce(MPI_IN_PLACE, words, ToInt(count), MPI_UINT32_T, MPI_BOR, comm_);
  }

  void Barrier() override {
    MPI_Request request;
    MPI_Ibarrier(comm_, &request);
    WaitPolitely(&request);
  }

  std::unique_ptr<Communicator> Split(int color, int key) override {
    MPI_Comm group;
    MPI_Comm_split(comm_, color, key, &group);
    return std::make_unique<MpiCommunicator>(group);
  }

 private:
  MPI_Comm comm_;
  int rank_ = 0;
  int size_ = 0;
};

// Whether a launcher (mpirun, srun) started this process as a rank; MPI is left alone otherwise.
bool StartedByLauncher() {
  constexpr std::array kMarks = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE",
                                 "PMI_FD"};
  for (const char* mark : kMarks) {
    if (std::getenv(mark) != nullptr) return true;
  }
  return false;
}

bool IsInitialized() {
  int initialized = 0;
  MPI_Initialized(&initialized);
  return initialized != 0;
}

}  // namespace

MpiSession::MpiSession() {
  if (!StartedByLauncher()) return;
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
  CHECK_GE(provided, MPI_THREAD_SERIALIZED) << "this MPI library cannot be used from a thread";
  SetAbortHook([](const std::string&) { MPI_Abort(MPI_COMM_WORLD, 1); });
  int rank = 0;
  int size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size > 1) SetFatalLabel("rank " + std::to_string(rank));
  MPI_Comm host;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
  MPI_Comm_rank(host, &local_rank_);
  MPI_Comm_size(host, &local_size_);
  MPI_Comm_free(&host);
  // The largest number of ranks on a host, and minus the least; 1 in the end where some host's
  // ranks are not in a row.
  int facts[3] = {local_size_, -local_size_, rank % local_size_ != local_rank_};
  MPI_Allreduce(MPI_IN_PLACE, facts, 3, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  if (facts[0] == -facts[1] && facts[2] == 0) ranks_per_host_ = local_size_;
}

MpiSession::~MpiSession() {
  if (!IsInitialized()) return;
  SetAbortHook(nullptr);
  SetFatalLabel("");
  MPI_Finalize();
}

std::unique_ptr<Communicator> MpiSession::World() {
  if (!IsInitialized()) return MakeSelfCommunicator();
  MPI_Comm world;
  MPI_Comm_dup(MPI_COMM_WORLD, &world);
  return std::make_unique<MpiCommunicator>(world);
}

}  // namespace intermix
