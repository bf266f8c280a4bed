#include "tests/emulator/report.h"

#include <absl/debugging/symbolize.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <sstream>

#include "tests/emulator/block.h"
#include "tests/emulator/region.h"

namespace emu {
namespace {

std::mutex report_mutex;
Report* active_report = nullptr;

Options FromEnvironment() {
  Options options;
  const char* text = std::getenv("INTERMIX_EMULATOR");
  const std::string unread = ParseOptions(text == nullptr ? "" : text, options);
  if (!unread.empty()) {
    std::fprintf(stderr, "INTERMIX_EMULATOR: cannot read \"%s\"\n", unread.c_str());
    std::abort();
  }
  return options;
}

Options& MutableOptions() {
  static Options options = FromEnvironment();
  return options;
}

std::string Coordinates(uint3 v) {
  return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
}

}  // namespace

std::string ParseOptions(const std::string& text, Options& options) {
  std::istringstream fields(text);
  for (std::string field; std::getline(fields, field, ',');) {
    const size_t equals = field.find('=');
    const std::string key = field.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : field.substr(equals + 1);
    const std::map<std::string, bool*> switches = {{"shadow", &options.shadow},
                                                   {"uninitialised", &options.uninitialised},
                                                   {"protect", &options.protect}};
    const std::map<std::string, Order> orders = {
        {"forward", Order::kForward}, {"reversed", Order::kReversed}, {"seeded", Order::kSeeded}};
    const bool is_number =
        !value.empty() && value.size() < 19 &&
        std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; });
    const uint64_t number = is_number ? std::stoull(value) : 0;
    if (switches.count(key) > 0 && (value == "on" || value == "off")) {
      *switches.at(key) = value == "on";
    } else if (key == "order" && orders.count(value) > 0) {
      options.order = orders.at(value);
    } else if (key == "seed" && is_number) {
      options.seed = number;
    } else if (key == "devices" && is_number && number <= kMaxDevices) {
      options.devices = static_cast<int>(number);
    } else if (key == "memory" && is_number) {
      options.device_memory_bytes = number;
    } else {
      return field;
    }
  }
  return "";
}

const Options& GetOptions() { return MutableOptions(); }
void SetOptions(const Options& options) { MutableOptions() = options; }

const char* ViolationName(Violation kind) {
  switch (kind) {
    case Violation::kSharedRace:
      return "shared-memory race";
    case Violation::kGlobalRace:
      return "global-memory race";
    case Violation::kOutOfBounds:
      return "out-of-bounds access";
    case Violation::kUseAfterFree:
      return "use after free";
    case Violation::kMisaligned:
      return "misaligned access";
    case Violation::kHostMemory:
      return "host memory touched by a kernel";
    case Violation::kDivergence:
      return "divergence";
    case Violation::kAsyncCopy:
      return "cp.async hazard";
    case Violation::kNeverWaited:
      return "kernel that never waits";
    case Violation::kUninitialised:
      return "uninitialised read";
    case Violation::kHostRace:
      return "host memory changed under an asynchronous copy";
    case Violation::kHostAccess:
      return "device memory touched by the host";
    case Violation::kInvalidArgument:
      return "invalid argument";
  }
  return "violation";
}

Report::Report() {
  const std::lock_guard lock(report_mutex);
  if (active_report != nullptr) {
    std::fprintf(stderr, "emulator: a second Report\n");
    std::abort();
  }
  active_report = this;
}

Report::~Report() {
  const std::lock_guard lock(report_mutex);
  active_report = nullptr;
}

bool Report::Has(Violation kind) const {
  return std::any_of(findings_.begin(), findings_.end(),
                     [kind](const Finding& f) { return f.kind == kind; });
}

std::string Report::ToString() const {
  std::string text;
  for (const Finding& f : findings_)
    text += std::string(ViolationName(f.kind)) + ": " + f.message + "\n";
  return text;
}

void Report::Add(Violation kind, const std::string& message) {
  if (findings_.size() < 100) findings_.push_back({kind, message});
}

void Violate(Violation kind, const std::string& message) {
  const std::lock_guard lock(report_mutex);
  if (active_report != nullptr) {
    active_report->Add(kind, message);
    return;
  }
  std::fprintf(stderr, "emulator: %s: %s\n", ViolationName(kind), message.c_str());
  std::abort();
}

std::string Where() {
  const ThreadState* thread = current_thread;
  if (thread == nullptr) return "host";
  if (thread->fiber == nullptr) return thread->block->name;
  return "kernel " + thread->block->name + ", block " + Coordinates(thread->block->index) +
         ", thread " + Coordinates(thread->index);
}

std::string FunctionName(const void* function) {
  static std::once_flag once;
  std::call_once(once, [] { absl::InitializeSymbolizer("/proc/self/exe"); });
  char name[512];
  if (absl::Symbolize(function, name, sizeof(name))) return name;
  char address[32];
  std::snprintf(address, sizeof(address), "%p", function);
  return address;
}

}  // namespace emu
