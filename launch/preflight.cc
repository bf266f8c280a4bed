#include "launch/preflight.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace intermix {
namespace {

// What Open MPI maps of /dev/shm for each rank of a host, and what NCCL may want.
constexpr int64_t kMpiSharedBytes = 4 << 20;
constexpr int64_t kNcclSharedBytes = 32 << 20;

std::string SizeText(int64_t bytes) {
  const auto size = static_cast<double>(bytes);
  return size < 1e9 ? absl::StrFormat("%.1f MB", size / 1e6)
                    : absl::StrFormat("%.1f GB", size / 1e9);
}

bool OnCpu(const RankFacts& rank) { return rank.device != "cuda"; }

// The ranks of each host, by name.
using Hosts = std::map<std::string, std::vector<int>>;

class Judgement {
 public:
  explicit Judgement(const std::vector<RankFacts>& ranks) : ranks_(ranks) {
    for (size_t i = 0; i < ranks.size(); ++i) hosts_[ranks[i].host].push_back(static_cast<int>(i));
  }

  Verdict Run() {
    MergeProblems();
    CheckSame(&RankFacts::build, "run different builds of Intermix",
              "install the same one on every host");
    CheckSame(&RankFacts::options, "were started with different options", "start them all alike");
    CheckSame(&RankFacts::fingerprint, "read different checkpoints",
              "give every host the same model directory");
    for (const auto& [host, members] : hosts_) {
      CheckMemory(host, members);
      CheckSharedMemory(host, members);
      if (ranks_.size() > 1 && OnCpu(ranks_[members.front()])) CheckCpus(host, members);
    }
    return verdict_;
  }

 private:
  // "rank 1", "ranks 0 to 3" or "ranks 0, 2", and where they are.
  std::string Who(const std::vector<int>& members) const {
    const int first = members.front();
    const bool in_a_row = members.back() - first + 1 == std::ssize(members);
    std::string who = members.size() == 1 ? absl::StrCat("rank ", first)
                      : in_a_row && members.size() > 2
                          ? absl::StrCat("ranks ", first, " to ", members.back())
                          : absl::StrCat("ranks ", absl::StrJoin(members, ", "));
    const bool same_host = std::ranges::all_of(
        members, [&](int rank) { return ranks_[rank].host == ranks_[first].host; });
    if (hosts_.size() > 1 && same_host) absl::StrAppend(&who, " on ", ranks_[first].host);
    return who;
  }

  // What several ranks say alike is said once.
  void MergeProblems() {
    std::vector<std::pair<std::string, std::vector<int>>> said;
    for (size_t i = 0; i < ranks_.size(); ++i) {
      for (const std::string& problem : ranks_[i].problems) {
        auto it = std::ranges::find(said, problem, &decltype(said)::value_type::first);
        if (it == said.end()) it = said.insert(said.end(), {problem, {}});
        it->second.push_back(static_cast<int>(i));
      }
    }
    for (const auto& [problem, members] : said) {
      const bool all = members.size() == ranks_.size();
      verdict_.failures.push_back(all ? problem : absl::StrCat(Who(members), ": ", problem));
    }
  }

  // What a rank does not know is no difference.
  void CheckSame(std::string RankFacts::*field, const std::string& what,
                 const std::string& advice) {
    std::map<std::string, std::vector<int>> members;
    for (size_t i = 0; i < ranks_.size(); ++i) {
      if (!(ranks_[i].*field).empty()) members[ranks_[i].*field].push_back(static_cast<int>(i));
    }
    if (members.size() < 2) return;
    std::vector<std::pair<int, std::string>> values;  // in the order of their first ranks
    for (const auto& [value, who] : members) {
      values.emplace_back(who.front(), absl::StrCat(value, " (", Who(who), ")"));
    }
    std::ranges::sort(values);
    std::vector<std::string> texts;
    for (const auto& [first, text] : values) texts.push_back(text);
    verdict_.failures.push_back(
        absl::StrCat("the ranks ", what, ": ", absl::StrJoin(texts, "; "), "; ", advice));
  }

  void CheckMemory(const std::string& host, const std::vector<int>& members) {
    if (!OnCpu(ranks_[members.front()])) {
      for (const int rank : members)
        CheckMemoryOf(absl::StrCat("the GPU of ", Who({rank})), {rank});
    } else {
      CheckMemoryOf(absl::StrCat("host ", host), members);
    }
  }

  // Of ranks that share a memory.
  void CheckMemoryOf(const std::string& where, const std::vector<int>& members) {
    int64_t weights = 0;
    int64_t cache = 0;
    int64_t context = 0;
    int64_t free = ranks_[members.front()].free_bytes;
    for (const int rank : members) {
      // A rank that cannot say has a problem already.
      if (ranks_[rank].weight_bytes == 0 || ranks_[rank].free_bytes < 0) return;
      weights += ranks_[rank].weight_bytes;
      cache += ranks_[rank].kv_bytes;
      context += ranks_[rank].context_bytes;
      free = std::min(free, ranks_[rank].free_bytes);
    }
    const std::string has = absl::StrCat(where, " has ", SizeText(free), " of memory free");
    const std::string holds = members.size() == 1
                                  ? "its rank needs "
                                  : absl::StrCat("its ", members.size(), " ranks need ");
    if (free < weights + cache) {
      verdict_.failures.push_back(absl::StrCat(
          has, ", but ", holds, SizeText(weights + cache), ": ", SizeText(weights),
          " for weights and ", SizeText(cache),
          " for the KV cache; use more hosts, a smaller --kv-memory or fewer bits per weight"));
    } else if ((free - weights) / 2 < context) {
      verdict_.warnings.push_back(absl::StrCat(
          has, ", and ", holds, SizeText(weights), " for weights and ", SizeText(context),
          " for the KV cache of one longest sequence: longer requests than fit will be refused; "
          "set --max-context or --kv-memory"));
    }
  }

  void CheckSharedMemory(const std::string& host, const std::vector<int>& members) {
    const int64_t free = ranks_[members.front()].shm_free_bytes;
    const int64_t count = std::ssize(members);
    if (free < 0 || count == 1) return;
    const bool on_cpu = OnCpu(ranks_[members.front()]);
    const int64_t need = count * (on_cpu ? kMpiSharedBytes : kNcclSharedBytes);
    if (free >= need) return;
    const std::string sentence =
        absl::StrCat("/dev/shm of host ", host, " has ", SizeText(free), " free, and its ", count,
                     " ranks may need ", SizeText(need),
                     " to exchange data; empty it, or start a container with a larger --shm-size");
    (free < count * kMpiSharedBytes ? verdict_.failures : verdict_.warnings).push_back(sentence);
  }

  // Whether the host's CPUs are put to good use.
  void CheckCpus(const std::string& host, const std::vector<int>& members) {
    std::set<int> cpus;
    int num_cpus_by_rank = 0;
    int threads = 0;
    bool automatic = false;
    bool pinned = false;
    for (const int rank : members) {
      const RankFacts& facts = ranks_[rank];
      cpus.insert(facts.cpus.begin(), facts.cpus.end());
      num_cpus_by_rank += static_cast<int>(facts.cpus.size());
      threads += facts.threads > 0 ? facts.threads : FairThreads(ranks_, rank);
      automatic |= facts.threads == 0;
      pinned |= facts.pin_threads;
    }
    const int count = static_cast<int>(members.size());
    const int num_cpus = static_cast<int>(cpus.size());
    const RankFacts& first = ranks_[members.front()];
    if (num_cpus == 0) return;
    const std::string on_host = absl::StrCat(" of host ", host);
    const std::string bind = absl::StrCat(
        "mpirun --map-by slot:PE=", std::max(1, first.host_cores / count), " --bind-to core");
    const bool spare = first.host_cpus >= 2 * num_cpus && first.host_cores >= count;
    const bool shared = num_cpus < num_cpus_by_rank;
    if (spare && (automatic || threads > num_cpus)) {
      verdict_.warnings.push_back(absl::StrCat(
          "the ", count, " ranks", on_host, " are bound to ", num_cpus, " of its ", first.host_cpus,
          " CPUs and the others stay idle; ", bind, " gives each its part"));
    } else if (count > num_cpus) {
      verdict_.warnings.push_back(absl::StrCat("the ", count, " ranks", on_host, " take turns on ",
                                               num_cpus, " CPUs; start at most ", num_cpus,
                                               " there (mpirun -n ", num_cpus, ", or more hosts)"));
    } else if (threads > num_cpus) {
      verdict_.warnings.push_back(absl::StrCat(
          "the ", count, " ranks", on_host, " start ", threads, " threads on ", num_cpus,
          " CPUs; use --threads ", num_cpus / count, ", or mpirun --bind-to none where it binds ",
          "ranks to fewer CPUs than they need"));
    } else if (shared && pinned) {
      verdict_.warnings.push_back(absl::StrCat(
          "the ranks", on_host, " share CPUs, so --pin-threads binds threads of several ranks to ",
          "the same ones; use ", bind));
    } else if (shared && first.numa_nodes > 1 && num_cpus == std::ssize(first.cpus) &&
               num_cpus == first.host_cpus) {
      verdict_.warnings.push_back(
          absl::StrCat("the ranks", on_host, " are not bound to CPUs and may move between its ",
                       first.numa_nodes, " NUMA nodes, away from their memory; use ", bind));
    }
  }

  const std::vector<RankFacts>& ranks_;
  Hosts hosts_;
  Verdict verdict_;
};

}  // namespace

absl::Status Verdict::status() const {
  if (failures.empty()) return absl::OkStatus();
  if (failures.size() == 1) return absl::FailedPreconditionError(failures.front());
  return absl::FailedPreconditionError(absl::StrCat("the job cannot start, for ", failures.size(),
                                                    " reasons:\n  ",
                                                    absl::StrJoin(failures, "\n  ")));
}

Verdict Judge(const std::vector<RankFacts>& ranks) { return Judgement(ranks).Run(); }

int FairThreads(const std::vector<RankFacts>& ranks, int rank) {
  const RankFacts& mine = ranks[rank];
  std::map<int, int> users;  // by CPU
  int neighbours = 0;
  for (const RankFacts& other : ranks) {
    if (other.host != mine.host) continue;
    ++neighbours;
    for (const int cpu : other.cpus) ++users[cpu];
  }
  double share = 0.0;
  for (const int cpu : mine.cpus) share += 1.0 / users[cpu];
  if (mine.cpus.empty())
    share = std::thread::hardware_concurrency() / static_cast<double>(neighbours);
  constexpr double kRounding = 1e-6;  // three thirds are one
  return std::max(1, static_cast<int>(std::floor(share + kRounding)));
}

}  // namespace intermix
