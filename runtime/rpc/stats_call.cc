#include "runtime/rpc/stats_call.h"

#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "runtime/rpc/proto_convert.h"

namespace intermix {

void SetRates(const v1::Stats& before, absl::Duration interval, v1::Stats& now) {
  const double seconds = absl::ToDoubleSeconds(interval);
  if (seconds <= 0.0) return;
  const auto rate = [&](uint64_t (v1::EngineInfo::*count)() const) {
    const uint64_t change = (now.engine().*count)() - (before.engine().*count)();
    return static_cast<double>(change) / seconds;
  };
  now.set_steps_per_second(rate(&v1::EngineInfo::step));
  now.set_prompt_tokens_per_second(rate(&v1::EngineInfo::prompt_tokens));
  now.set_generated_tokens_per_second(rate(&v1::EngineInfo::generated_tokens));
}

StatsCall::StatsCall(absl::Duration interval, std::function<v1::Stats()> sample,
                     std::function<void()> on_done)
    : interval_(interval),
      sample_(std::move(sample)),
      on_done_(std::move(on_done)),
      message_(sample_()),
      sampled_(absl::Now()) {
  StartWrite(&message_);
}

void StatsCall::Write() {
  v1::Stats now = sample_();
  const absl::Time time = absl::Now();
  SetRates(message_, time - sampled_, now);
  message_ = std::move(now);
  sampled_ = time;
  StartWrite(&message_);
}

void StatsCall::OnWriteDone(bool ok) {
  if (!ok) return Finish(grpc::Status::CANCELLED);
  Wait();
}

void StatsCall::Wait() {
  bool cancelled = false;
  {
    const std::lock_guard lock(mutex_);
    cancelled = cancelled_;
    if (!cancelled) {
      alarm_ = std::make_unique<grpc::Alarm>();
      alarm_->Set(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(interval_),
                  [this](bool fired) { fired ? Write() : Finish(grpc::Status::CANCELLED); });
    }
  }
  if (cancelled) Finish(grpc::Status::CANCELLED);
}

void StatsCall::OnCancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  if (alarm_ != nullptr) alarm_->Cancel();
}

void StatsCall::OnDone() {
  on_done_();
  delete this;
}

}  // namespace intermix
