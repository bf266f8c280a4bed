// How the fake runtime's calls reach a stream: queued, or recorded where the stream is captured.
#pragma once

#include <functional>

#include "tests/emulator/device.h"

namespace emu {

// Submits what `request` asks for to `stream` (null: the current device's default stream), under
// the device's mutex.
cudaError_t SubmitTo(cudaStream_t stream, const std::function<Request(Device&)>& request);

// The device of a stream; the current one for the default stream.
Device& DeviceOfStream(cudaStream_t stream);

}  // namespace emu
