// The fake runtime: graphs, made by capturing streams.
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "tests/emulator/device.h"
#include "tests/emulator/include/cuda_runtime.h"
#include "tests/emulator/submit.h"

using emu::Device;
using emu::Fail;
using emu::OperationRef;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream == nullptr) return Fail(cudaErrorStreamCaptureUnsupported);
  Device& device = emu::DeviceOfStream(stream);
  const std::lock_guard lock(device.mutex);
  if (stream->capture != nullptr) return Fail(cudaErrorStreamCaptureUnsupported);
  stream->capture = new CUgraph_st();
  stream->capture->device = stream->device;
  stream->capture->streams = {stream};
  stream->capture_after.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  Device& device = emu::DeviceOfStream(stream);
  const std::lock_guard lock(device.mutex);
  if (stream == nullptr || stream->capture == nullptr || stream->capture->streams[0] != stream) {
    return Fail(cudaErrorStreamCaptureUnmatched);
  }
  const std::unique_ptr<CUgraph_st> captured(stream->capture);
  std::vector<bool> joined(captured->nodes.size());
  std::vector<int> reached = stream->capture_after;
  while (!reached.empty()) {
    const int node = reached.back();
    reached.pop_back();
    if (joined[node]) continue;
    joined[node] = true;
    reached.insert(reached.end(), captured->nodes[node].after.begin(),
                   captured->nodes[node].after.end());
  }
  for (CUstream_st* each : captured->streams) each->capture = nullptr;
  if (captured->invalid) return Fail(cudaErrorStreamCaptureInvalidated);
  for (const bool node : joined) {
    if (!node) return Fail(cudaErrorStreamCaptureUnjoined);
  }
  captured->streams.clear();
  *graph = new CUgraph_st(*captured);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream == nullptr || stream->capture == nullptr ? cudaStreamCaptureStatusNone
            : stream->capture->invalid                      ? cudaStreamCaptureStatusInvalidated
                                                            : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  if (graph == nullptr) return Fail(cudaErrorInvalidValue);
  Device& device = Device::Get(graph->device);
  const std::lock_guard lock(device.mutex);
  *exec = new CUgraphExec_st();
  (*exec)->device = graph->device;
  (*exec)->nodes = graph->nodes;
  // One hidden stream for each captured one: branches stay unordered when the graph runs.
  std::map<int, CUstream_st*> branches;
  for (const CUgraph_st::Node& node : graph->nodes) {
    CUstream_st*& branch = branches[node.branch];
    if (branch == nullptr) branch = device.CreateStream(false);
    (*exec)->branches.push_back(branch);
  }
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
  if (exec == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Device& device = emu::DeviceOfStream(handle);
  const std::lock_guard lock(device.mutex);
  if (device.error != cudaSuccess) return Fail(device.error);
  CUstream_st* stream = device.Resolve(handle);
  if (stream->capture != nullptr || exec->device != stream->device) {
    return Fail(cudaErrorNotSupported);
  }
  const OperationRef begin = device.Enqueue(stream, {.what = "a graph", .make = nullptr});
  std::vector<OperationRef> operations;
  for (size_t n = 0; n < exec->nodes.size(); ++n) {
    std::vector<OperationRef> after = {begin};
    for (const int earlier : exec->nodes[n].after) after.push_back(operations[earlier]);
    operations.push_back(device.Enqueue(exec->branches[n], exec->nodes[n].request, after));
  }
  device.Enqueue(stream, {.what = "the end of a graph", .make = nullptr}, operations);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  if (exec == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Device& device = Device::Get(exec->device);
  const std::lock_guard lock(device.mutex);
  for (CUstream_st* branch : std::set(exec->branches.begin(), exec->branches.end())) {
    device.DestroyStream(branch);
  }
  delete exec;
  return cudaSuccess;
}
