// The order in which a device's operations run.
#include "tests/emulator/queue.h"

#include <algorithm>
#include <utility>

#include "tests/emulator/device.h"
#include "tests/emulator/report.h"

namespace emu {

bool StreamClock::Covers(int stream, uint64_t index) const {
  return stream < static_cast<int>(indices_.size()) && indices_[stream] >= index;
}

void StreamClock::Set(int stream, uint64_t index) {
  if (stream >= static_cast<int>(indices_.size())) indices_.resize(stream + 1);
  indices_[stream] = std::max(indices_[stream], index);
}

void StreamClock::Join(const StreamClock& other) {
  for (size_t s = 0; s < other.indices_.size(); ++s) Set(static_cast<int>(s), other.indices_[s]);
}

CUstream_st* Device::CreateStream(bool blocking) {
  streams_.push_back(std::make_unique<CUstream_st>());
  CUstream_st* stream = streams_.back().get();
  stream->device = index_;
  stream->id = next_stream_id_++;
  stream->blocking = blocking;
  return stream;
}

void Device::DestroyStream(CUstream_st* stream) {
  while (stream->last != nullptr && !stream->last->done) Advance(stream->last);
  std::erase_if(streams_, [stream](const auto& owned) { return owned.get() == stream; });
}

CUstream_st* Device::Resolve(cudaStream_t stream) {
  return stream == nullptr ? streams_.front().get() : stream;
}

bool Device::HasCapture() const {
  return std::any_of(streams_.begin(), streams_.end(),
                     [](const auto& stream) { return stream->capture != nullptr; });
}

OperationRef Device::Enqueue(CUstream_st* stream, const Request& request,
                             const std::vector<OperationRef>& after) {
  auto operation = std::make_shared<Operation>();
  operation->what = request.what;
  if (request.make) operation->run = request.make();
  operation->after = after;
  operation->stream = stream;
  operation->stream_id = stream->id;
  operation->index = ++stream->num_operations;
  // The default stream waits for all blocking streams, and they for it.
  CUstream_st* standard = streams_.front().get();
  for (const auto& other : streams_) {
    if (other.get() == stream || other->last == nullptr) continue;
    const bool ordered =
        (stream == standard && other->blocking) || (other.get() == standard && stream->blocking);
    if (ordered) operation->after.push_back(other->last);
  }
  if (stream->last != nullptr) operation->after.push_back(stream->last);
  operation->inputs = operation->shown = host_;
  for (const OperationRef& earlier : operation->after) operation->inputs.Join(earlier->before);
  operation->before = operation->inputs;
  operation->before.Set(stream->id, operation->index);
  operation->follows = operation->after;
  std::erase_if(operation->after, [](const OperationRef& earlier) { return earlier->done; });
  stream->last = operation;
  stream->queue.push_back(operation);
  return operation;
}

namespace {

// The first operation that `operation` still waits for, null where it may run.
OperationRef FirstUnmet(const OperationRef& operation) {
  const auto unmet = std::find_if(operation->after.begin(), operation->after.end(),
                                  [](const OperationRef& earlier) { return !earlier->done; });
  return unmet == operation->after.end() ? nullptr : *unmet;
}

}  // namespace

// The next operation on the way to `wanted`, which has not run: in a drawn order any that may run,
// else only what `wanted` needs, so that everything else runs as late as it may.
OperationRef Device::Choose(const OperationRef& wanted) {
  if (GetOptions().order == Order::kSeeded) {
    std::vector<OperationRef> candidates;
    for (const auto& stream : streams_) {
      if (stream->queue.empty() || FirstUnmet(stream->queue.front()) != nullptr) continue;
      candidates.push_back(stream->queue.front());
    }
    return candidates[random_() % candidates.size()];
  }
  OperationRef next = wanted;
  for (OperationRef earlier = FirstUnmet(next); earlier != nullptr; earlier = FirstUnmet(next)) {
    next = earlier;
  }
  return next;
}

// Runs what `wanted` needs, and then it.
void Device::RunLazily(const OperationRef& wanted) {
  std::vector<OperationRef> path = {wanted};
  while (!path.empty()) {
    const OperationRef earlier = FirstUnmet(path.back());
    if (earlier != nullptr) {
      path.push_back(earlier);
      continue;
    }
    if (!path.back()->done) Execute(path.back());
    path.pop_back();
  }
}

void Device::Execute(const OperationRef& operation) {
  CUstream_st* stream = operation->stream;
  stream->queue.erase(std::find(stream->queue.begin(), stream->queue.end(), operation));
  running_ = operation;
  past_.push_back({++time_, operation});
  early_ = operation->shown;
  for (const OperationRef& earlier : operation->follows) early_.Join(earlier->shown);
  operation->shown = operation->run ? operation->before : early_;
  if (operation->run && error == cudaSuccess) operation->run();
  operation->run = nullptr;
  operation->after.clear();
  operation->follows.clear();
  operation->done = true;
  running_ = nullptr;
}

void Device::RunUntil(const OperationRef& operation) {
  if (operation == nullptr) return;
  OpenMemory();
  if (GetOptions().order == Order::kSeeded) {
    while (!operation->done) Execute(Choose(operation));
  } else {
    RunLazily(operation);
  }
  CloseMemory();
  Observe(operation);
}

void Device::Advance(const OperationRef& towards) {
  OpenMemory();
  Execute(Choose(towards));
  CloseMemory();
}

void Device::RunAll() {
  for (size_t s = 0; s < streams_.size(); ++s) {
    const OperationRef last = streams_[s]->last;
    if (last != nullptr) RunUntil(last);
  }
}

void Device::Observe(const OperationRef& operation) {
  host_.Join(operation->before);
  // Later calls are ordered after what the host has seen, and so must all be that are queued.
  const auto needed = [this](const Past& past) {
    const Operation& done = *past.operation;
    return !host_.Covers(done.stream_id, done.index) ||
           std::any_of(streams_.begin(), streams_.end(), [&done](const auto& stream) {
             return !stream->queue.empty() &&
                    !stream->queue.front()->before.Covers(done.stream_id, done.index);
           });
  };
  const auto unseen = std::find_if(past_.begin(), past_.end(), needed);
  past_.erase(past_.begin(), unseen);
}

const Device::Past* Device::FindPast(uint64_t time) const {
  const auto after = std::upper_bound(past_.begin(), past_.end(), time,
                                      [](uint64_t t, const Past& past) { return t < past.time; });
  return after == past_.begin() ? nullptr : &*(after - 1);
}

// What is older than the list is ordered before everything that may still run.
bool Device::Ordered(uint64_t time, bool waited) const {
  const Past* past = FindPast(time);
  const StreamClock& before = waited ? running_->before : early_;
  return past == nullptr || before.Covers(past->operation->stream_id, past->operation->index);
}

std::string Device::NameOf(uint64_t time) const {
  const Past* past = FindPast(time);
  return past == nullptr
             ? "an earlier operation"
             : past->operation->what + " on stream " + std::to_string(past->operation->stream_id);
}

uint64_t Device::OrderedUntil(const StreamClock& before) const {
  for (const Past& past : past_) {
    if (past.operation != running_ &&
        !before.Covers(past.operation->stream_id, past.operation->index)) {
      return past.time << 16;
    }
  }
  return time_ << 16;
}

}  // namespace emu
