#include "comm/watchdog.h"

#include <cstdio>
#include <future>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace intermix {
namespace {

// How long transports may take to let go before the process ends without them.
constexpr std::chrono::seconds kLetGoGrace{5};

void SayOnStandardError(const std::string& sentence) {
  std::fprintf(stderr, "intermix: %s; leaving the other ranks\n", sentence.c_str());
  std::fflush(stderr);
}

Watchdog::Options WithDefaults(Watchdog::Options options) {
  if (!options.say) options.say = SayOnStandardError;
  if (!options.end) options.end = Fatal;
  return options;
}

}  // namespace

Watchdog::Watchdog(Options options)
    : options_(WithDefaults(std::move(options))), thread_([this] { Run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_all();
  thread_.join();
}

int Watchdog::Watch(Transport transport) {
  const std::lock_guard lock(mutex_);
  transports_.emplace(next_id_, std::move(transport));
  return next_id_++;
}

void Watchdog::Forget(int id) {
  const std::lock_guard lock(mutex_);
  transports_.erase(id);
}

Watchdog::Work::Work(Watchdog& watchdog, std::string what) : watchdog_(watchdog) {
  const std::lock_guard lock(watchdog_.mutex_);
  watchdog_.work_ = std::move(what);
  watchdog_.work_began_ = Clock::now();
}

Watchdog::Work::~Work() {
  const std::lock_guard lock(watchdog_.mutex_);
  watchdog_.work_.clear();
}

std::string Watchdog::FindProblem() const {
  for (const auto& [id, transport] : transports_) {
    const std::string problem = transport.problem();
    if (!problem.empty()) return work_.empty() ? problem : absl::StrCat(problem, ", in ", work_);
  }
  const bool late =
      options_.limit.count() > 0 && !work_.empty() && Clock::now() - work_began_ > options_.limit;
  if (!late) return "";
  std::string sentence = absl::StrCat(work_, " has not ended after ", options_.limit.count(),
                                      " ms: another rank is gone or stuck");
  for (const auto& [id, transport] : transports_) {
    const std::string latest = transport.latest();
    if (!latest.empty()) absl::StrAppend(&sentence, "; last begun: ", latest);
  }
  return sentence;
}

// On a thread of its own, as a transport may be stuck in its own clean-up.
void Watchdog::LetGo() {
  auto done = std::make_shared<std::promise<void>>();
  std::thread([transports = transports_, done] {
    for (const auto& [id, transport] : transports) transport.let_go();
    done->set_value();
  }).detach();
  done->get_future().wait_for(kLetGoGrace);
}

void Watchdog::Run() {
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(lock, options_.poll, [this] { return stop_; })) {
    const std::string problem = FindProblem();
    if (problem.empty()) continue;
    const std::string sentence = absl::StrCat(options_.who, ": ", problem);
    options_.say(sentence);
    LetGo();
    options_.end(sentence);
    return;
  }
}

}  // namespace intermix
