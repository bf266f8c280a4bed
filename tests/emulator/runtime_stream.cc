// The fake runtime: streams and events.
#include <algorithm>
#include <memory>

#include "tests/emulator/device.h"
#include "tests/emulator/include/cuda_runtime.h"
#include "tests/emulator/submit.h"

namespace emu {

Device& DeviceOfStream(cudaStream_t stream) {
  return stream == nullptr ? CurrentDevice() : Device::Get(stream->device);
}

cudaError_t SubmitTo(cudaStream_t handle, const std::function<Request(Device&)>& request) {
  Device& device = DeviceOfStream(handle);
  const std::lock_guard lock(device.mutex);
  if (device.error != cudaSuccess) return Fail(device.error);
  CUstream_st* stream = device.Resolve(handle);
  if (stream->capture == nullptr) {
    device.Enqueue(stream, request(device));
    return cudaSuccess;
  }
  CUgraph_st& graph = *stream->capture;
  if (graph.invalid) return Fail(cudaErrorStreamCaptureInvalidated);
  graph.nodes.push_back(
      {.request = request(device), .after = stream->capture_after, .branch = stream->id});
  stream->capture_after = {static_cast<int>(graph.nodes.size()) - 1};
  return cudaSuccess;
}

namespace {

// A call that a capture of this stream forbids, and that ends it.
bool SpoilsCapture(CUstream_st* stream) {
  if (stream->capture == nullptr) return false;
  stream->capture->invalid = true;
  return true;
}

bool HasRun(const OperationRef& operation) { return operation == nullptr || operation->done; }

}  // namespace
}  // namespace emu

using emu::Device;
using emu::DeviceOfStream;
using emu::Fail;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  Device& device = emu::CurrentDevice();
  const std::lock_guard lock(device.mutex);
  if (device.error != cudaSuccess) return Fail(device.error);
  *stream = device.CreateStream((flags & cudaStreamNonBlocking) == 0);
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Device& device = DeviceOfStream(stream);
  const std::lock_guard lock(device.mutex);
  if (emu::SpoilsCapture(stream)) return Fail(cudaErrorStreamCaptureUnsupported);
  device.DestroyStream(stream);
  return Fail(device.error);
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  Device& device = DeviceOfStream(handle);
  const std::lock_guard lock(device.mutex);
  CUstream_st* stream = device.Resolve(handle);
  if (emu::SpoilsCapture(stream)) return Fail(cudaErrorStreamCaptureUnsupported);
  device.RunUntil(stream->last);
  return Fail(device.error);
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  Device& device = DeviceOfStream(handle);
  const std::lock_guard lock(device.mutex);
  CUstream_st* stream = device.Resolve(handle);
  if (emu::SpoilsCapture(stream)) return Fail(cudaErrorStreamCaptureUnsupported);
  if (device.error != cudaSuccess) return Fail(device.error);
  if (stream->last == nullptr) return cudaSuccess;
  if (!stream->last->done) {
    device.Advance(stream->last);  // who polls must see an end
    return cudaErrorNotReady;
  }
  device.Observe(stream->last);
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned int) {
  if (event == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Device& device = DeviceOfStream(handle);
  const std::lock_guard lock(device.mutex);
  if (device.error != cudaSuccess) return Fail(device.error);
  CUstream_st* stream = device.Resolve(handle);
  if (event->capture != nullptr) {  // joins the capture that the event was recorded in
    if (stream->capture == nullptr) {
      stream->capture = event->capture;
      stream->capture_after.clear();
      stream->capture->streams.push_back(stream);
    }
    if (stream->capture != event->capture) return Fail(cudaErrorStreamCaptureUnsupported);
    for (const int node : event->capture_after) {
      if (std::count(stream->capture_after.begin(), stream->capture_after.end(), node) == 0) {
        stream->capture_after.push_back(node);
      }
    }
    return cudaSuccess;
  }
  if (emu::SpoilsCapture(stream)) return Fail(cudaErrorStreamCaptureUnsupported);
  if (event->recorded != nullptr) {
    device.Enqueue(stream, {.what = "a wait for an event", .make = nullptr}, {event->recorded});
  }
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* user_data) {
  return emu::SubmitTo(stream, [=](Device& device) {
    return emu::Request{.what = "a host function", .make = [&device, function, user_data] {
                          return [&device, function, user_data] {
                            device.CloseMemory();
                            function(user_data);
                            device.OpenMemory();
                          };
                        }};
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  *event = new CUevent_st();
  (*event)->device = emu::current_device;
  return Fail(emu::CurrentDevice().error);
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  if (event == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Device& device = DeviceOfStream(handle);
  const std::lock_guard lock(device.mutex);
  if (device.error != cudaSuccess) return Fail(device.error);
  CUstream_st* stream = device.Resolve(handle);
  if (event->device != stream->device) return Fail(cudaErrorInvalidResourceHandle);
  event->capture = stream->capture;
  if (stream->capture != nullptr) {
    event->capture_after = stream->capture_after;
    event->recorded = nullptr;
    return cudaSuccess;
  }
  event->recorded = device.Enqueue(stream, {.what = "an event", .make = nullptr});
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Device& device = Device::Get(event->device);
  const std::lock_guard lock(device.mutex);
  if (event->capture != nullptr) return Fail(cudaErrorCapturedEvent);
  device.RunUntil(event->recorded);
  return Fail(device.error);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Device& device = Device::Get(event->device);
  const std::lock_guard lock(device.mutex);
  if (event->capture != nullptr) return Fail(cudaErrorCapturedEvent);
  if (device.error != cudaSuccess) return Fail(device.error);
  if (!emu::HasRun(event->recorded)) {
    device.Advance(event->recorded);
    return cudaErrorNotReady;
  }
  if (event->recorded != nullptr) device.Observe(event->recorded);
  return cudaSuccess;
}

// Emulated time says nothing: one microsecond for everything.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (start == nullptr || end == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  if (!emu::HasRun(start->recorded) || !emu::HasRun(end->recorded)) return cudaErrorNotReady;
  *milliseconds = 0.001f;
  return cudaSuccess;
}
