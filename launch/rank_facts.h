// RankFacts: what a rank found on its host before anything is loaded; small, and the same document
// for every rank, so that all can judge all (preflight.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace intermix {

struct RankFacts {
  std::string host;
  std::string build;                  // version and build id
  std::string options;                // those that must be the same on all ranks
  std::string fingerprint;            // of the checkpoint; empty where it cannot be read
  std::vector<std::string> problems;  // why this rank cannot run, as far as it sees

  std::string device;           // --device
  int64_t weight_bytes = 0;     // that its shard will take; 0: not known
  int64_t kv_bytes = 0;         // that its KV cache takes at least
  int64_t context_bytes = 0;    // that one sequence of the longest context takes of it
  int64_t free_bytes = -1;      // of its device; of its host where that is a CPU; -1: not known
  int64_t shm_free_bytes = -1;  // of the host's /dev/shm; -1: not known

  int threads = 0;           // that were asked for; 0: automatic
  bool pin_threads = false;  // each to a CPU
  std::vector<int> cpus;     // that this rank may run on
  int host_cpus = 0;         // that whoever started it may run on; 0: not known
  int host_cores = 0;        // of these; two or more CPUs of a core count once
  int numa_nodes = 1;        // of the host

  std::string ToJson() const;
  // What ToJson made, also of another build: what is missing or of another type stays as above.
  static RankFacts FromJson(const std::string& text);

  friend bool operator==(const RankFacts&, const RankFacts&) = default;
};

}  // namespace intermix
