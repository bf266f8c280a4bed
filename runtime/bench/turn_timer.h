// TurnTimer: times work and the device's limits in turns, limit, work, limit, work, and compares
// each turn of work with the turns of limits just before it: a machine that others use, or that
// changes its clock, slows both. Medians of the turns. One thread; ranks that step together measure
// together.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "kernels/limits.h"
#include "runtime/bench/work.h"

namespace intermix {

double Median(std::vector<double> values);  // 0 of none

// Clocks in seconds. The CPU clock adds up what all threads of this process used, so that other
// processes disturb it little, and so that it does not see threads that sleep.
double SteadySeconds();
double CpuSeconds();

struct TurnOptions {
  int turns = 5;
  double min_seconds = 0.02;  // of a turn: short work is repeated
  std::function<double()> clock = &SteadySeconds;
  // Where several ranks measure together: a collective that returns the largest of their values,
  // so that all start at once and repeat as often. Empty: alone.
  std::function<double(double)> largest;
};

struct Measurement {
  double seconds = 0.0;  // of one run
  double spread = 0.0;   // (slowest - fastest turn) / median
  // Work per second over the limit, of each Resource; 0 where there is no work or no limit.
  std::array<double, kNumResources> fractions{};
};

class TurnTimer {
 public:
  // `finish` returns when the device has done what it was given; may be empty.
  TurnTimer(std::vector<Limit> limits, std::function<void()> finish, TurnOptions options);

  // Runs `run` once before anything is timed.
  Measurement Measure(const Work& work, const std::function<void()>& run);

  struct LimitRate {
    const Limit* limit;
    double rate;    // operations or bytes per second, the median
    double spread;  // (largest - smallest) / median
  };
  // The limits alone, in turns.
  std::vector<LimitRate> MeasureLimits();

  const std::function<double()>& clock() const { return options_.clock; }

 private:
  double Largest(double value) const { return options_.largest ? options_.largest(value) : value; }
  // Of a limit that is run for at least so long.
  double Rate(const Limit& limit, double min_seconds) const;
  // Seconds of one of `repeats` runs.
  double Seconds(const std::function<void()>& run, int64_t repeats) const;
  struct Repeats {
    int64_t count = 1;
    double seconds = 0.0;  // of all of them, about
  };
  Repeats RepeatsFor(const std::function<void()>& run) const;

  const std::vector<Limit> limits_;
  const std::function<void()> finish_;
  const TurnOptions options_;
};

}  // namespace intermix
