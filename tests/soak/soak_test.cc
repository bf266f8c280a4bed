// Two ranks that serve 200 clients at a time, all of them in a hurry: answers of every kind,
// clients that leave, deadlines, and requests that are wrong. Nothing may crash, leak, or change a
// token.
//
// Runs for a minute, or for INTERMIX_SOAK_SECONDS (README.md).
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/soak/soak_requests.h"
#include "tests/testing/served_model.h"

namespace intermix {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kClients = 200;

int SoakSeconds() {
  const char* seconds = std::getenv("INTERMIX_SOAK_SECONDS");
  return seconds == nullptr ? 60 : std::max(10, std::atoi(seconds));
}

struct Counts {
  std::atomic<int64_t> finished{0};
  std::atomic<int64_t> cancelled{0};
  std::atomic<int64_t> late{0};  // ended by their deadline
  std::atomic<int64_t> refused{0};
  std::atomic<int64_t> too_many{0};  // RESOURCE_EXHAUSTED
};

// The first few things that were wrong; there may be thousands.
class Complaints {
 public:
  void Add(const std::string& what) {
    const std::lock_guard lock(mutex_);
    if (++count_ <= 10) ADD_FAILURE() << what;
  }
  bool any() {
    const std::lock_guard lock(mutex_);
    return count_ > 0;
  }

 private:
  std::mutex mutex_;
  int count_ = 0;
};

class Soak {
 public:
  explicit Soak(Served& served)
      : served_(served), requests_(SoakRequests()), bad_requests_(BadRequests()) {}

  // Every request alone, and computed without what another left in the cache.
  void ComputeExpected() {
    for (v1::GenerateRequest request : requests_) {
      request.set_cache_salt(request.request_id());
      grpc::ClientContext context;
      context.set_deadline(Soon());
      expected_.push_back(Ask(served_.inference(), request, context, kAll));
      const grpc::Status& status = expected_.back().status;
      ASSERT_TRUE(status.ok()) << request.request_id() << ": " << status.error_message();
    }
  }

  // One client, until `end`. Several connections, as of several processes.
  void RunClient(int client, Clock::time_point end) {
    grpc::ChannelArguments apart;
    apart.SetInt("intermix.soak.connection", client % 8);
    const auto stub = v1::Inference::NewStub(
        grpc::CreateCustomChannel(served_.address(), grpc::InsecureChannelCredentials(), apart));
    std::mt19937 random(static_cast<uint32_t>(client));
    while (Clock::now() < end && !complaints_.any()) {
      switch (random() % 10) {
        case 0:
          AskWrongly(*stub, bad_requests_[random() % bad_requests_.size()]);
          break;
        case 1:
          Leave(*stub, random() % requests_.size(), static_cast<int>(random() % 20));
          break;
        case 2:
          Hurry(*stub, random() % requests_.size(), static_cast<int>(random() % 2000));
          break;
        default:
          Finish(*stub, random() % requests_.size(), random());
      }
    }
  }

  const Counts& counts() const { return counts_; }
  bool failed() { return complaints_.any(); }

 private:
  static constexpr int kAll = -1;

  // Reads to the end, or `max_messages` and then cancels.
  static SoakAnswer Ask(v1::Inference::Stub& stub, const v1::GenerateRequest& request,
                        grpc::ClientContext& context, int max_messages) {
    SoakAnswer answer;
    context.set_wait_for_ready(true);  // 200 clients that connect at once may have to try again
    const auto reader = stub.Generate(&context, request);
    v1::GenerateResponse response;
    for (int i = 0; i != max_messages && reader->Read(&response); ++i) answer.Take(response);
    if (max_messages != kAll) context.TryCancel();
    while (reader->Read(&response)) answer.Take(response);
    answer.status = reader->Finish();
    return answer;
  }

  void Finish(v1::Inference::Stub& stub, size_t index, uint32_t variant) {
    v1::GenerateRequest request = requests_[index];
    request.set_priority(static_cast<int32_t>(variant % 3));
    if (variant % 5 == 0) request.set_cache_salt("tenant " + std::to_string(variant % 4));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(5));
    const SoakAnswer answer = Ask(stub, request, context, kAll);
    if (answer.status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      ++counts_.too_many;
      std::this_thread::sleep_for(std::chrono::milliseconds(200));  // as a client should
      return;
    }
    Check(answer, index, answer.status.ok() && answer.choices == expected_[index].choices);
    ++counts_.finished;
  }

  void Leave(v1::Inference::Stub& stub, size_t index, int messages) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(5));
    const SoakAnswer answer = Ask(stub, requests_[index], context, messages);
    Check(answer, index, answer.IsBeginningOf(expected_[index]));
    ++counts_.cancelled;
  }

  void Hurry(v1::Inference::Stub& stub, size_t index, int milliseconds) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(milliseconds));
    const SoakAnswer answer = Ask(stub, requests_[index], context, kAll);
    Check(answer, index, answer.IsBeginningOf(expected_[index]));
    if (answer.status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) ++counts_.late;
  }

  void AskWrongly(v1::Inference::Stub& stub, const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(5));
    const grpc::Status status = Ask(stub, request, context, kAll).status;
    // Where too many are open already, nobody looks at what it says.
    if (status.error_code() != grpc::StatusCode::INVALID_ARGUMENT &&
        status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED) {
      complaints_.Add("a bad request ends with: " + status.error_message());
    }
    ++counts_.refused;
  }

  void Check(const SoakAnswer& answer, size_t index, bool right) {
    using grpc::StatusCode;
    const StatusCode code = answer.status.error_code();
    const bool expected = code == StatusCode::OK || code == StatusCode::CANCELLED ||
                          code == StatusCode::DEADLINE_EXCEEDED ||
                          code == StatusCode::RESOURCE_EXHAUSTED;
    if (right && expected) return;
    complaints_.Add(requests_[index].request_id() + (right ? "" : " got other tokens") +
                    ", and ended with code " + std::to_string(code) + ": " +
                    answer.status.error_message());
  }

  Served& served_;
  const std::vector<v1::GenerateRequest> requests_;
  const std::vector<v1::GenerateRequest> bad_requests_;
  std::vector<SoakAnswer> expected_;
  Counts counts_;
  Complaints complaints_;
};

// The ranks' memory, over time.
class MemoryLog {
 public:
  void Sample(const v1::GetClusterResponse& cluster) {
    uint64_t bytes = 0;
    for (const v1::Rank& rank : cluster.ranks()) bytes += rank.status().resident_bytes();
    samples_.push_back(static_cast<double>(bytes) / (1 << 20));
  }
  // The median MiB of the part of the time from `begin` to `end`, as parts of 1.
  double Median(double begin, double end) const {
    const auto at = [&](double part) {
      return samples_.begin() +
             static_cast<std::ptrdiff_t>(part * static_cast<double>(samples_.size()));
    };
    std::vector<double> part(at(begin), at(end));
    std::sort(part.begin(), part.end());
    return part.empty() ? 0.0 : part[part.size() / 2];
  }

 private:
  std::vector<double> samples_;
};

TEST(SoakTest, TwoHundredClientsChangeNothing) {
  // A cache of 256 blocks, far too small for all, and a queue that is full at times. However long
  // requests wait in it, those of a higher priority come first and preempt others.
  Served served({"--kv-memory", "4MiB", "--max-queue", "220", "--max-batch-tokens", "256",
                 "--priority-ageing", "3600", "--ep", "2"});
  Soak soak(served);
  soak.ComputeExpected();
  ASSERT_FALSE(::testing::Test::HasFailure());

  const Clock::time_point end = Clock::now() + std::chrono::seconds(SoakSeconds());
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) clients.emplace_back([&, i] { soak.RunClient(i, end); });
  MemoryLog memory;
  while (Clock::now() < end && !soak.failed()) {
    memory.Sample(served.Cluster());
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
  for (std::thread& client : clients) client.join();

  EXPECT_TRUE(served.Running(0));
  const v1::EngineInfo engine = served.Engine();
  EXPECT_EQ(engine.waiting(), 0);
  EXPECT_EQ(engine.free_kv_blocks(), engine.total_kv_blocks());
  EXPECT_GT(engine.preemptions(), 0) << "the cache was to be too small";
  const Counts& counts = soak.counts();
  for (const auto* count : {&counts.finished, &counts.cancelled, &counts.late, &counts.refused}) {
    EXPECT_GT(*count, 0);
  }
  const double before = memory.Median(0.3, 0.5);
  const double after = memory.Median(0.8, 1.0);
  EXPECT_LT(after, before * 1.02 + 2.0) << "MiB of both ranks";
  std::printf(
      "%d s: %ld answers equal to their single runs, %ld cancelled, %ld past their "
      "deadlines, %ld refused, %ld turned away; %ld steps, %ld tokens, %ld preemptions, "
      "memory %.1f -> %.1f MiB\n",
      SoakSeconds(), counts.finished.load(), counts.cancelled.load(), counts.late.load(),
      counts.refused.load(), counts.too_many.load(), static_cast<long>(engine.step()),
      static_cast<long>(engine.generated_tokens()), static_cast<long>(engine.preemptions()), before,
      after);

  EXPECT_EQ(served.Client({"shutdown"}).exit_code, 0);
  EXPECT_EQ(served.job().Wait(), 0) << served.job().err();
}

}  // namespace
}  // namespace intermix
