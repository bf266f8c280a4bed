// What is linked where NCCL's header was absent, or CUDA not asked for, at build time.
#include "comm/nccl_communicator.h"

namespace intermix {

absl::StatusOr<std::unique_ptr<Communicator>> MakeNcclCommunicator(const NcclOptions&,
                                                                   std::unique_ptr<Communicator>) {
  return absl::UnavailableError(
      "this build has no NCCL; configure with --preset cuda on a machine that has nccl.h");
}

}  // namespace intermix
