#include "launch/progress_bar.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace intermix {

ProgressBar::ProgressBar(std::string title, Unit unit, std::FILE* out, absl::Duration quiet)
    : title_(std::move(title)),
      unit_(unit),
      out_(out),
      quiet_(quiet),
      terminal_(isatty(fileno(out)) == 1),
      start_(absl::Now()) {}

ProgressBar::~ProgressBar() {
  if (line_open_) std::fputc('\n', out_);
}

void ProgressBar::Update(int64_t done, int64_t total) {
  const absl::Time now = absl::Now();
  if (now - start_ < quiet_) return;
  if (terminal_) {
    if (done < total && now - drawn_ < absl::Milliseconds(100)) return;
    drawn_ = now;
    std::fprintf(out_, "\r%s\x1B[K", Line(done, total).c_str());
    std::fflush(out_);
    line_open_ = true;
    return;
  }
  const int64_t tenths = total > 0 ? done * 10 / total : 10;
  if (tenths <= tenths_) return;
  tenths_ = tenths;
  std::fprintf(out_, "%s\n", Line(done, total).c_str());
}

std::string ProgressBar::Line(int64_t done, int64_t total) const {
  constexpr int kWidth = 30;
  const double part = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1.0;
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start_);
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  std::string line = absl::StrCat(title_, " ");
  if (terminal_) {
    const int filled = std::clamp(static_cast<int>(part * kWidth), 0, kWidth);
    absl::StrAppend(&line, "[", std::string(filled, '#'), std::string(kWidth - filled, '.'), "] ");
  }
  absl::StrAppendFormat(&line, "%3d%%  ", static_cast<int>(part * 100));
  line += Amounts(done, total, rate);
  if (done > 0 && done < total) {
    absl::StrAppendFormat(&line, "  %.0f s left", (1 / part - 1) * seconds);
  }
  return line;
}

std::string ProgressBar::Amounts(int64_t done, int64_t total, double rate) const {
  if (unit_ == Unit::kTokens) {
    return absl::StrFormat("%d of %d tokens  %.0f tokens/s", done, total, rate);
  }
  if (unit_ == Unit::kRequests) {
    return absl::StrFormat("%d of %d requests  %.1f/s", done, total, rate);
  }
  return absl::StrFormat("%s of %s  %.2f GB/s", BytesText(done), BytesText(total), rate / 1e9);
}

std::string BytesText(int64_t bytes) {
  if (bytes < 1'000'000) return absl::StrFormat("%.0f KB", static_cast<double>(bytes) / 1e3);
  if (bytes < 1'000'000'000) return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
  return absl::StrFormat("%.1f GB", static_cast<double>(bytes) / 1e9);
}

}  // namespace intermix
