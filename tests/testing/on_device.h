// OnDevice: a communicator for device memory as one for host memory, so that the checks of
// communicator_checks.h fit it. Each call copies to the device, does it there, and copies back.
#pragma once

#include <map>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "kernels/backend.h"

namespace intermix {

class OnDevice final : public Communicator {
 public:
  // `backend` outlives it.
  OnDevice(Backend& backend, std::unique_ptr<Communicator> inner)
      : backend_(backend), inner_(std::move(inner)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }

  void Broadcast(void* data, size_t bytes, int root) override {
    InPlace(data, static_cast<int64_t>(bytes),
            [&](void* device) { inner_->Broadcast(device, bytes, root); });
  }
  void AllGather(const void* in, void* out, std::span<const int64_t> bytes) override {
    Move(in, bytes[static_cast<size_t>(rank())], out, Sum(bytes),
         [&](const void* from, void* to) { inner_->AllGather(from, to, bytes); });
  }
  void AllToAll(const void* in, std::span<const int64_t> send_bytes, void* out,
                std::span<const int64_t> recv_bytes) override {
    Move(in, Sum(send_bytes), out, Sum(recv_bytes),
         [&](const void* from, void* to) { inner_->AllToAll(from, send_bytes, to, recv_bytes); });
  }
  int64_t StartAllToAll(const void* in, std::span<const int64_t> send_bytes, void* out,
                        std::span<const int64_t> recv_bytes) override {
    const int64_t in_bytes = Sum(send_bytes);
    const int64_t out_bytes = Sum(recv_bytes);
    Started started = {.in = backend_.Allocate(static_cast<size_t>(in_bytes)),
                       .out = backend_.Allocate(static_cast<size_t>(out_bytes)),
                       .host = out};
    backend_.CopyToDevice(in, started.in.View(DType::kU8, {in_bytes}));
    const int64_t exchange =
        inner_->StartAllToAll(started.in.data(), send_bytes, started.out.data(), recv_bytes);
    started_[exchange].push_back(std::move(started));
    return exchange;
  }
  void WaitForAllToAll(int64_t exchange) override {
    inner_->WaitForAllToAll(exchange);
    const auto end = started_.upper_bound(exchange);
    for (auto it = started_.begin(); it != end; ++it) {
      for (const Started& s : it->second) {
        backend_.CopyToHost(s.out.View(DType::kU8, {static_cast<int64_t>(s.out.bytes())}), s.host);
      }
    }
    started_.erase(started_.begin(), end);
  }
  bool overlaps() const override { return inner_->overlaps(); }
  void AllReduceMax(float* data, int64_t count) override {
    InPlace(data, 4 * count,
            [&](void* device) { inner_->AllReduceMax(static_cast<float*>(device), count); });
  }
  void Merge(void* words, int64_t count) override {
    InPlace(words, 4 * count, [&](void* device) { inner_->Merge(device, count); });
  }
  void Barrier() override { inner_->Barrier(); }
  std::unique_ptr<Communicator> Split(int color, int key) override {
    return std::make_unique<OnDevice>(backend_, inner_->Split(color, key));
  }

 private:
  static int64_t Sum(std::span<const int64_t> bytes) {
    return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
  }

  template <typename F>
  void Move(const void* in, int64_t in_bytes, void* out, int64_t out_bytes, const F& call) {
    const Buffer from = backend_.Allocate(static_cast<size_t>(in_bytes));
    const Buffer to = backend_.Allocate(static_cast<size_t>(out_bytes));
    backend_.CopyToDevice(in, from.View(DType::kU8, {in_bytes}));
    call(from.data(), to.data());
    backend_.CopyToHost(to.View(DType::kU8, {out_bytes}), out);
  }
  template <typename F>
  void InPlace(void* data, int64_t bytes, const F& call) {
    const Buffer device = backend_.Allocate(static_cast<size_t>(bytes));
    backend_.CopyToDevice(data, device.View(DType::kU8, {bytes}));
    call(device.data());
    backend_.CopyToHost(device.View(DType::kU8, {bytes}), data);
  }

  // An exchange under way.
  struct Started {
    Buffer in;
    Buffer out;
    void* host;  // where `out` goes
  };

  Backend& backend_;
  std::unique_ptr<Communicator> inner_;
  std::map<int64_t, std::vector<Started>> started_;
};

}  // namespace intermix
