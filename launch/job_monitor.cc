#include "launch/job_monitor.h"

#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/rpc/proto_convert.h"
#include "spdlog/spdlog.h"

namespace intermix {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(100);
// A rank that lost its connection and lives makes another with its next heartbeat.
constexpr absl::Duration kGoneLimit = absl::Milliseconds(700);
// How much later than its end the news of a rank's death may come.
constexpr absl::Duration kNewsOfDeath = absl::Milliseconds(300);
// For streams to end. Those whose clients do not read never do; all others take milliseconds, but
// on a machine that is too busy. A launcher that kills the process before loses only that.
constexpr absl::Duration kStreamsEnd = absl::Seconds(5);

// "rank 1 on HOST: stepping, last step 17" and so on, of all ranks.
std::string Describe(const v1::GetClusterResponse& cluster) {
  std::string text;
  for (const v1::Rank& rank : cluster.ranks()) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", "rank ", rank.info().rank(), " on ",
                    rank.info().host(), ": ", PhaseText(rank.status().phase()), ", last step ",
                    rank.status().step());
  }
  return text;
}

}  // namespace

JobMonitor::JobMonitor(RpcServer& server, const Engine& engine, Options options)
    : server_(server),
      engine_(engine),
      options_(std::move(options)),
      silence_limit_(options_.stall_timeout > absl::ZeroDuration() ? options_.stall_timeout
                                                                   : absl::InfiniteDuration()),
      last_progress_(absl::Now()),
      thread_([this] { Run(); }) {}

JobMonitor::~JobMonitor() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void JobMonitor::Run() {
  absl::Time last_look = absl::Now();
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, absl::ToChronoMilliseconds(kPoll), [this] { return stop_; })) {
    lock.unlock();
    const absl::Time now = absl::Now();
    if (now - std::exchange(last_look, now) > silence_limit_ / 2) {
      server_.cluster().ForgiveSilence();  // this process was stopped itself
      last_progress_ = now;
    }
    WatchRanks(kGoneLimit);
    WatchSteps();
    lock.lock();
  }
}

void JobMonitor::WatchRanks(absl::Duration gone_limit) {
  const std::lock_guard lock(ending_the_job_);
  const std::optional<std::string> trouble =
      server_.cluster().FindTrouble(gone_limit, silence_limit_);
  if (!trouble.has_value()) return;
  spdlog::error("{}; ending the job", *trouble);
  server_.Fail(*trouble, kStreamsEnd);
  options_.end(*trouble);
}

void JobMonitor::EndIfARankIsGone() {
  if (server_.cluster().AwaitGone(kNewsOfDeath)) WatchRanks(absl::ZeroDuration());
}

void JobMonitor::WatchSteps() {
  const EngineSnapshot engine = engine_.Snapshot();
  const absl::Time now = absl::Now();
  const bool idle = engine.running + engine.waiting == 0;
  if (idle || engine.step != last_step_) last_progress_ = now;
  last_step_ = engine.step;
  const absl::Duration stuck = now - last_progress_;
  const bool stalled = stuck >= silence_limit_;
  if (stalled == std::exchange(stalled_, stalled)) return;
  server_.SetStalled(stalled);
  if (stalled) {
    spdlog::error("no step has ended for {}: {}",
                  absl::FormatDuration(absl::Trunc(stuck, absl::Milliseconds(100))),
                  Describe(server_.cluster().Snapshot()));
  } else {
    spdlog::info("steps go on");
  }
}

}  // namespace intermix
