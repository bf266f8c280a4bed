// What a rank sees of its process and its host. Any thread.
#pragma once

#include <string>

#include "launch/rank_facts.h"

namespace intermix {

// Fills in what depends on the process and its host alone: host, cpus, host_cpus, host_cores,
// numa_nodes, shm_free_bytes.
void ProbeHost(RankFacts& facts);

std::string HostName();  // "unknown" where it has none

// What the linker called this program: hexadecimal digits; empty where it did not.
std::string BuildId();

}  // namespace intermix
