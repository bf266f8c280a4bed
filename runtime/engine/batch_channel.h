// BatchChannel: how rank 0's Batch reaches every rank: one small broadcast, and a second one only
// for what does not fit. Collective; engine thread only.
#pragma once

#include "comm/communicator.h"
#include "runtime/engine/batch.h"

namespace intermix {

void SendBatch(Communicator& world, const Batch& batch);  // rank 0
Batch ReceiveBatch(Communicator& world);                  // every other rank

}  // namespace intermix
