// MpiCommunicator: ranks are MPI processes; one process per device, started by mpirun.
// Without mpirun the world is this one process.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace intermix {

// Owns MPI_Init and MPI_Finalize; at most one per process, made before any thread is started.
// While it lives, a failed CHECK aborts the whole job (MPI_Abort), so that no rank hangs.
class MpiSession {
 public:
  MpiSession();
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  // All ranks of the job. May be called once; the session outlives it.
  std::unique_ptr<Communicator> World();

  int local_rank() const { return local_rank_; }  // among the ranks of this host
  int local_size() const { return local_size_; }
  // The same on all ranks: how many each host has, if they are as many on every host and have
  // consecutive numbers; else 1.
  int ranks_per_host() const { return ranks_per_host_; }

 private:
  int local_rank_ = 0;
  int local_size_ = 1;
  int ranks_per_host_ = 1;
};

}  // namespace intermix
