#include "launch/probe_host.h"

#include <elf.h>
#include <link.h>
#include <sched.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace intermix {
namespace {

// The CPUs that process `pid` may run on (0: this one); empty where the kernel does not say.
std::vector<int> CpusOf(pid_t pid) {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(pid, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

// Whether `cpu` is the first one of its core; sysfs lists a core's CPUs as "0,32" or "0-1".
bool FirstOfItsCore(int cpu) {
  std::ifstream file(
      absl::StrCat("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
  int first = cpu;
  file >> first;
  return first == cpu;
}

int NumaNodes() {
  int nodes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/node", error)) {
    const std::string name = entry.path().filename();
    nodes += name.starts_with("node") && name.size() > 4 && name[4] >= '0' && name[4] <= '9';
  }
  return std::max(nodes, 1);
}

int64_t FreeSharedMemory() {
  struct statvfs stat = {};
  if (statvfs("/dev/shm", &stat) != 0) return -1;
  return static_cast<int64_t>(stat.f_bavail) * static_cast<int64_t>(stat.f_frsize);
}

// The build id in an ELF segment of notes (elf(5)); empty where it has none.
std::string BuildIdIn(const char* notes, size_t size) {
  constexpr size_t kAlign = 4;
  const auto aligned = [](size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; };
  for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= size;) {
    ElfW(Nhdr) note;
    std::memcpy(&note, notes + at, sizeof(note));
    const size_t name = at + sizeof(note);
    const size_t id = name + aligned(note.n_namesz);
    if (id + note.n_descsz > size) return "";
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof(ELF_NOTE_GNU) &&
        std::memcmp(notes + name, ELF_NOTE_GNU, sizeof(ELF_NOTE_GNU)) == 0) {
      return absl::BytesToHexString(absl::string_view(notes + id, note.n_descsz));
    }
    at = id + aligned(note.n_descsz);
  }
  return "";
}

// For dl_iterate_phdr, whose first object is the program itself.
int TakeBuildId(dl_phdr_info* program, size_t, void* out) {
  for (int i = 0; i < program->dlpi_phnum; ++i) {
    const ElfW(Phdr)& segment = program->dlpi_phdr[i];
    if (segment.p_type != PT_NOTE) continue;
    const auto* notes = reinterpret_cast<const char*>(program->dlpi_addr + segment.p_vaddr);
    const std::string id = BuildIdIn(notes, segment.p_memsz);
    if (!id.empty()) *static_cast<std::string*>(out) = id;
  }
  return 1;  // no further object
}

}  // namespace

std::string HostName() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

void ProbeHost(RankFacts& facts) {
  facts.host = HostName();
  facts.cpus = CpusOf(0);
  // mpirun binds its ranks, not itself. A rank whose parent is gone learns nothing from init.
  const std::vector<int> all = getppid() > 1 ? CpusOf(getppid()) : std::vector<int>();
  facts.host_cpus = static_cast<int>(all.size());
  facts.host_cores = static_cast<int>(std::ranges::count_if(all, &FirstOfItsCore));
  facts.numa_nodes = NumaNodes();
  facts.shm_free_bytes = FreeSharedMemory();
}

std::string BuildId() {
  std::string id;
  dl_iterate_phdr(&TakeBuildId, &id);
  return id;
}

}  // namespace intermix
