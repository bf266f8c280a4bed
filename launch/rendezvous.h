// Rendezvous: how the ranks learn where rank 0's control service is.
#pragma once

#include "comm/communicator.h"
#include "runtime/rpc/control_client.h"
#include "runtime/rpc/server.h"

namespace intermix {

// Collective: rank 0 (which gives its server; the others null) tells where to report and the job's
// id. Where it listens on every interface, this machine's ranks are sent to the loopback address,
// and ranks on other hosts to its host name.
ControlClientOptions ShareControlAddress(Communicator& world, bool one_host,
                                         const RpcServer* server);

}  // namespace intermix
