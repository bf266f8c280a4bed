#include "comm/nccl_library.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/shared_library.h"

namespace intermix {
namespace {

absl::Status FindAll(const SharedLibrary& file, NcclLibrary* nccl) {
  absl::Status status;
  const auto find = [&](const char* name, auto* function) {
    if (status.ok()) status = file.Find(name, function);
  };
  find("ncclGetErrorString", &nccl->GetErrorString);
  find("ncclGetLastError", &nccl->GetLastError);
  find("ncclGetUniqueId", &nccl->GetUniqueId);
  find("ncclCommInitRank", &nccl->CommInitRank);
  find("ncclCommSplit", &nccl->CommSplit);
  find("ncclCommDestroy", &nccl->CommDestroy);
  find("ncclCommAbort", &nccl->CommAbort);
  find("ncclCommGetAsyncError", &nccl->CommGetAsyncError);
  find("ncclGroupStart", &nccl->GroupStart);
  find("ncclGroupEnd", &nccl->GroupEnd);
  find("ncclBroadcast", &nccl->Broadcast);
  find("ncclAllGather", &nccl->AllGather);
  find("ncclAllReduce", &nccl->AllReduce);
  find("ncclSend", &nccl->Send);
  find("ncclRecv", &nccl->Recv);
  return status;
}

}  // namespace

absl::StatusOr<NcclLibrary> OpenNccl() {
  NcclLibrary nccl = {};
  absl::StatusOr<SharedLibrary> file =
      SharedLibrary::Open("ncclGetUniqueId", {"libnccl.so.2", "libnccl.so"});
  absl::Status status = file.status();
  if (status.ok()) status = FindAll(*file, &nccl);
  if (status.ok()) return nccl;
  return absl::UnavailableError(
      absl::StrCat(std::string(status.message()),
                   "; several GPUs need NCCL 2.18 or newer, install it or set LD_LIBRARY_PATH"));
}

}  // namespace intermix
