#include "comm/nccl_communicator.h"

#include <nccl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/agreement.h"
#include "comm/nccl_library.h"
#include "comm/nccl_second_stream.h"
#include "kernels/core/check.h"

namespace intermix {
namespace {

// What a communicator and its splits share.
struct Shared {
  NcclLibrary nccl = {};
  cudaStream_t stream = nullptr;
  Watchdog* watchdog = nullptr;
  int rank = 0;  // in the job, for messages
  std::unique_ptr<NcclSecondStream> second;
};

class NcclCommunicator final : public Communicator {
 public:
  // `comm` is null in a group of one, which needs no NCCL.
  NcclCommunicator(std::shared_ptr<Shared> shared, ncclComm_t comm,
                   std::unique_ptr<Communicator> control)
      : shared_(std::move(shared)),
        comm_(comm),
        control_(std::move(control)),
        rank_(control_->rank()),
        size_(control_->size()) {
    if (comm_ == nullptr) return;
    watch_ = shared_->watchdog->Watch({.problem = [this] { return AsyncProblem(); },
                                       .latest = [this] { return Latest(); },
                                       .let_go = [this] { nccl().CommAbort(comm_); }});
  }
  ~NcclCommunicator() override {
    if (comm_ == nullptr) return;
    shared_->watchdog->Forget(watch_);
    nccl().CommDestroy(comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void Broadcast(void* data, size_t bytes, int root) override {
    if (size_ == 1 || bytes == 0) return;
    Begin("broadcast", bytes);
    Check(nccl().Broadcast(data, data, bytes, ncclInt8, root, comm_, stream()), "broadcast", bytes);
  }

  void AllGather(const void* in, void* out, std::span<const int64_t> bytes) override {
    CHECK_EQ(static_cast<int>(bytes.size()), size_);
    const bool equal = std::ranges::all_of(bytes, [&](int64_t b) { return b == bytes[0]; });
    if (equal) return AllGatherEqual(in, out, static_cast<size_t>(bytes[0]));
    Begin("all-gather", static_cast<size_t>(bytes[rank_]));
    Check(nccl().GroupStart(), "all-gather", 0);
    char* to = static_cast<char*>(out);
    for (int r = 0; r < size_; ++r) {
      const size_t count = static_cast<size_t>(bytes[r]);
      if (count > 0) {
        Check(nccl().Broadcast(in, to, count, ncclInt8, r, comm_, stream()), "all-gather", count);
      }
      to += count;
    }
    Check(nccl().GroupEnd(), "all-gather", static_cast<size_t>(bytes[rank_]));
  }

  void AllToAll(const void* in, std::span<const int64_t> send_bytes, void* out,
                std::span<const int64_t> recv_bytes) override {
    Exchange(in, send_bytes, out, recv_bytes, stream());
  }

  int64_t StartAllToAll(const void* in, std::span<const int64_t> send_bytes, void* out,
                        std::span<const int64_t> recv_bytes) override {
    Exchange(in, send_bytes, out, recv_bytes, shared_->second->Begin());
    return shared_->second->End();
  }
  void WaitForAllToAll(int64_t exchange) override { shared_->second->WaitFor(exchange); }
  bool overlaps() const override { return size_ > 1; }

  void AllReduceMax(float* data, int64_t count) override {
    AllReduce(data, count, ncclFloat32, ncclMax, "all-reduce max");
  }

  // A sum of words of which at most one is not zero is that word.
  void Merge(void* words, int64_t count) override {
    AllReduce(words, count, ncclUint32, ncclSum, "merge");
  }

  void Barrier() override {
    CheckCuda(cudaStreamSynchronize(stream()), "barrier");
    control_->Barrier();
  }

  std::unique_ptr<Communicator> Split(int color, int key) override {
    std::unique_ptr<Communicator> group = control_->Split(color, key);
    ncclComm_t comm = nullptr;
    if (size_ > 1) {
      // Groups share the whole job's buffers: they never work at the same time.
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.splitShare = 1;
      Begin("split", 0);
      const int nccl_color = group->size() > 1 ? color : NCCL_SPLIT_NOCOLOR;
      Check(nccl().CommSplit(comm_, nccl_color, key, &comm, &config), "split", 0);
    }
    return std::make_unique<NcclCommunicator>(shared_, comm, std::move(group));
  }

 private:
  const NcclLibrary& nccl() const { return shared_->nccl; }
  // The stream of the device's work, where no exchange is under way.
  cudaStream_t stream() const {
    CHECK(!shared_->second->busy()) << "a collective was called before StartAllToAll's was waited "
                                       "for";
    return shared_->stream;
  }

  void Copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
    if (bytes == 0) return;
    CheckCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copy");
  }

  void Exchange(const void* in, std::span<const int64_t> send_bytes, void* out,
                std::span<const int64_t> recv_bytes, cudaStream_t stream) {
    CHECK_EQ(static_cast<int>(send_bytes.size()), size_);
    CHECK_EQ(send_bytes[rank_], recv_bytes[rank_]);
    const char* from = static_cast<const char*>(in);
    char* to = static_cast<char*>(out);
    Begin("all-to-all", static_cast<size_t>(std::reduce(send_bytes.begin(), send_bytes.end())));
    if (size_ > 1) Check(nccl().GroupStart(), "all-to-all", 0);
    for (int r = 0; r < size_; ++r) {
      const size_t send = static_cast<size_t>(send_bytes[r]);
      const size_t recv = static_cast<size_t>(recv_bytes[r]);
      if (r == rank_) {
        Copy(to, from, recv, stream);
      } else {
        if (send > 0) Check(nccl().Send(from, send, ncclInt8, r, comm_, stream), "send", send);
        if (recv > 0) Check(nccl().Recv(to, recv, ncclInt8, r, comm_, stream), "recv", recv);
      }
      from += send;
      to += recv;
    }
    if (size_ > 1) Check(nccl().GroupEnd(), "all-to-all", 0);
  }

  void AllGatherEqual(const void* in, void* out, size_t bytes) {
    if (bytes == 0) return;
    if (size_ == 1) return Copy(out, in, bytes, stream());
    Begin("all-gather", bytes);
    Check(nccl().AllGather(in, out, bytes, ncclInt8, comm_, stream()), "all-gather", bytes);
  }

  void AllReduce(void* data, int64_t count, ncclDataType_t type, ncclRedOp_t op, const char* what) {
    if (size_ == 1 || count == 0) return;
    const size_t n = static_cast<size_t>(count);
    Begin(what, 4 * n);
    Check(nccl().AllReduce(data, data, n, type, op, comm_, stream()), what, 4 * n);
  }

  // Before NCCL is called.
  void Begin(const char* what, size_t bytes) {
    latest_ = what;
    latest_bytes_ = bytes;
    ++calls_;
  }
  void Check(ncclResult_t result, const char* what, size_t bytes) const {
    CHECK(result == ncclSuccess) << "rank " << shared_->rank << ": NCCL " << what << " of " << bytes
                                 << " bytes among " << size_
                                 << " ranks: " << nccl().GetErrorString(result) << " "
                                 << nccl().GetLastError(comm_);
  }
  void CheckCuda(cudaError_t error, const char* what) const {
    CHECK(error == cudaSuccess) << "rank " << shared_->rank << ": " << what << ": "
                                << cudaGetErrorString(error);
  }

  // Asked by the watchdog's thread.
  std::string AsyncProblem() const {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = nccl().CommGetAsyncError(comm_, &state);
    if (asked != ncclSuccess) state = asked;
    if (state == ncclSuccess || state == ncclInProgress) return "";
    return absl::StrCat("NCCL among ", size_, " ranks: ", nccl().GetErrorString(state), " ",
                        nccl().GetLastError(comm_));
  }

  // Asked by the watchdog's thread. A recorded step's calls count once, when it is recorded.
  std::string Latest() const {
    if (calls_ == 0) return "";
    return absl::StrCat("NCCL ", latest_.load(), " of ", latest_bytes_.load(), " bytes among ",
                        size_, " ranks, its number ", calls_.load());
  }

  std::shared_ptr<Shared> shared_;
  ncclComm_t comm_;
  std::unique_ptr<Communicator> control_;
  int rank_;
  int size_;
  int watch_ = 0;
  std::atomic<const char*> latest_ = "";
  std::atomic<size_t> latest_bytes_ = 0;
  std::atomic<int64_t> calls_ = 0;
};

// Sends what NCCL tells with NCCL_DEBUG to stderr, but for NCCL_DEBUG=VERSION, which NCCL always
// prints to stdout. Not where stderr is a file: NCCL would empty it.
void KeepStdoutForAnswers() {
  struct stat about = {};
  if (fstat(STDERR_FILENO, &about) != 0 || S_ISREG(about.st_mode)) return;
  setenv("NCCL_DEBUG_FILE", "/dev/stderr", /*overwrite=*/0);
}

// Rank 0's, on every rank.
ncclUniqueId AgreeOnId(const NcclLibrary& nccl, Communicator& control) {
  ncclUniqueId id = {};
  if (control.rank() == 0) {
    const ncclResult_t result = nccl.GetUniqueId(&id);
    CHECK(result == ncclSuccess) << "NCCL cannot listen: " << nccl.GetErrorString(result);
  }
  control.Broadcast(&id, sizeof(id), 0);
  return id;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(
    const NcclOptions& options, std::unique_ptr<Communicator> control) {
  auto shared = std::make_shared<Shared>();
  shared->stream = static_cast<cudaStream_t>(options.stream);
  shared->watchdog = &options.watchdog;
  shared->rank = control->rank();
  shared->second = std::make_unique<NcclSecondStream>(shared->stream, shared->rank);
  ncclComm_t comm = nullptr;
  if (control->size() > 1) {
    const absl::StatusOr<NcclLibrary> nccl = OpenNccl();
    if (absl::Status s = AgreeOnStatus(*control, nccl.status()); !s.ok()) return s;
    shared->nccl = *nccl;
    setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
    KeepStdoutForAnswers();
    const ncclUniqueId id = AgreeOnId(*nccl, *control);
    const ncclResult_t result = nccl->CommInitRank(&comm, control->size(), id, control->rank());
    CHECK(result == ncclSuccess) << "rank " << control->rank() << " of " << control->size()
                                 << " cannot join NCCL: " << nccl->GetErrorString(result) << " "
                                 << nccl->GetLastError(nullptr);
  }
  return std::make_unique<NcclCommunicator>(std::move(shared), comm, std::move(control));
}

}  // namespace intermix
