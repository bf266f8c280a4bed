#include "tests/emulator/fault.h"

#include <signal.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "tests/emulator/device.h"
#include "tests/emulator/region.h"
#include "tests/emulator/report.h"

namespace emu {
namespace {

struct sigaction former_handler;

void OnFault(int signal, siginfo_t* info, void* context) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(info->si_addr);
  if (InRegion(address)) {
    // Nothing goes on after this, so what is not signal-safe may be used.
    const std::string memory = Device::Get(DeviceOf(address)).DescribeAddress(address);
    std::fprintf(
        stderr, "emulator: %s: %s touches 0x%llx, %s\n",
        ViolationName(current_thread == nullptr ? Violation::kHostAccess : Violation::kOutOfBounds),
        Where().c_str(), static_cast<unsigned long long>(address), memory.c_str());
    std::abort();
  }
  if (current_thread != nullptr && current_thread->fiber != nullptr) {
    std::fprintf(stderr, "emulator: %s faults at 0x%llx\n", Where().c_str(),
                 static_cast<unsigned long long>(address));
  }
  if (former_handler.sa_flags & SA_SIGINFO) {
    former_handler.sa_sigaction(signal, info, context);
  } else if (former_handler.sa_handler != SIG_DFL && former_handler.sa_handler != SIG_IGN) {
    former_handler.sa_handler(signal);
  } else {
    std::abort();
  }
}

}  // namespace

void InstallFaultHandler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action = {};
    action.sa_sigaction = OnFault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &former_handler);
  });
}

}  // namespace emu
