#include "runtime/bench/turn_timer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <utility>

namespace intermix {
namespace {

constexpr double kLongestLimit = 0.2;  // seconds of a limit's turn, unless it is asked for more

double Spread(const std::vector<double>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return (*high - *low) / Median(values);
}

}  // namespace

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double CpuSeconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

TurnTimer::TurnTimer(std::vector<Limit> limits, std::function<void()> finish, TurnOptions options)
    : limits_(std::move(limits)), finish_(std::move(finish)), options_(std::move(options)) {}

double TurnTimer::Seconds(const std::function<void()>& run, int64_t repeats) const {
  Largest(0.0);
  const double start = options_.clock();
  for (int64_t i = 0; i < repeats; ++i) run();
  if (finish_) finish_();
  return (options_.clock() - start) / static_cast<double>(repeats);
}

TurnTimer::Repeats TurnTimer::RepeatsFor(const std::function<void()>& run) const {
  Seconds(run, 1);  // the first run touches memory for the first time
  constexpr int64_t kMostRepeats = 1 << 20;
  for (int64_t repeats = 1;;) {
    const double seconds = Largest(Seconds(run, repeats)) * static_cast<double>(repeats);
    if (seconds >= 0.5 * options_.min_seconds || repeats >= kMostRepeats) {
      const double wanted = options_.min_seconds / std::max(seconds, 1e-9);
      const int64_t count = std::clamp<int64_t>(
          static_cast<int64_t>(std::ceil(wanted * static_cast<double>(repeats))), 1, kMostRepeats);
      return {count, seconds / static_cast<double>(repeats) * static_cast<double>(count)};
    }
    repeats *= 8;
  }
}

double TurnTimer::Rate(const Limit& limit, double min_seconds) const {
  Largest(0.0);
  const double start = options_.clock();
  double amount = 0.0;
  double seconds = 0.0;
  do {
    limit.run();
    amount += limit.amount;
    seconds = options_.clock() - start;
  } while (seconds < min_seconds);
  return amount / seconds;
}

Measurement TurnTimer::Measure(const Work& work, const std::function<void()>& run) {
  const Repeats repeats = RepeatsFor(run);
  // A short burst may be faster than what a machine keeps up during long work.
  const double limit_seconds =
      std::max(options_.min_seconds, std::min(0.25 * repeats.seconds, kLongestLimit));
  std::vector<const Limit*> limits;  // of any rank's work
  for (const Limit& limit : limits_) {
    if (Largest(work.Of(limit.resource)) > 0.0) limits.push_back(&limit);
  }
  std::vector<double> seconds;
  std::array<std::vector<double>, kNumResources> fractions;
  for (int turn = 0; turn < options_.turns; ++turn) {
    std::array<double, kNumResources> rates{};
    for (const Limit* limit : limits) {
      rates[static_cast<size_t>(limit->resource)] = Rate(*limit, limit_seconds);
    }
    seconds.push_back(Seconds(run, repeats.count));
    for (size_t r = 0; r < rates.size(); ++r) {
      if (rates[r] == 0.0) continue;
      fractions[r].push_back(work.Of(static_cast<Resource>(r)) / seconds.back() / rates[r]);
    }
  }
  Measurement result{.seconds = Median(seconds), .spread = Spread(seconds)};
  for (size_t r = 0; r < fractions.size(); ++r) result.fractions[r] = Median(fractions[r]);
  return result;
}

std::vector<TurnTimer::LimitRate> TurnTimer::MeasureLimits() {
  std::vector<std::vector<double>> rates(limits_.size());
  for (const Limit& limit : limits_) limit.run();
  for (int turn = 0; turn < options_.turns; ++turn) {
    for (size_t i = 0; i < limits_.size(); ++i) {
      rates[i].push_back(Rate(limits_[i], options_.min_seconds));
    }
  }
  std::vector<LimitRate> result;
  for (size_t i = 0; i < limits_.size(); ++i) {
    result.push_back({&limits_[i], Median(rates[i]), Spread(rates[i])});
  }
  return result;
}

}  // namespace intermix
