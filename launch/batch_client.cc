#include "launch/batch_client.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "intermix/v1/inference.grpc.pb.h"
#include "launch/batch_lines.h"
#include "launch/ordered_output.h"
#include "launch/progress_bar.h"
#include "launch/signal_watcher.h"

namespace intermix {
namespace {

// How often a request is sent again where the server's queue was full, and the first pause, which
// doubles: half a minute in all.
constexpr int kRetries = 7;
constexpr std::chrono::milliseconds kFirstPause{250};

class BatchRun {
 public:
  BatchRun(const BatchOptions& options, const RequestOptions& defaults,
           std::vector<std::string> lines, OrderedOutput& output)
      : options_(options),
        defaults_(defaults),
        lines_(std::move(lines)),
        output_(output),
        stub_(v1::Inference::NewStub(Connect(options.client))),
        bar_("generating", ProgressBar::Unit::kRequests) {}

  // Answers all lines, or as many as there were when something stopped it.
  void Run() {
    std::vector<std::thread> workers;
    const size_t count = std::min(lines_.size(), static_cast<size_t>(options_.concurrency));
    for (size_t i = 0; i < count; ++i) workers.emplace_back([this] { Work(); });
    for (std::thread& worker : workers) worker.join();
  }

  // Any thread: takes no more lines and cancels what is under way.
  void Stop() {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
    for (grpc::ClientContext* call : calls_) call->TryCancel();
  }

  // After Run.
  int64_t size() const { return static_cast<int64_t>(lines_.size()); }
  int64_t num_done() const { return num_done_; }
  int64_t num_failed() const { return num_failed_; }
  const grpc::Status& lost() const { return lost_; }  // not OK: the server was gone

 private:
  void Work() {
    while (const std::optional<int64_t> index = Take()) {
      const absl::StatusOr<v1::GenerateRequest> request = ParseBatchLine(lines_[*index], defaults_);
      BatchAnswer answer;
      grpc::Status status;
      if (request.ok()) {
        status = Ask(*request, answer);
      } else {
        status = {grpc::StatusCode::INVALID_ARGUMENT, std::string(request.status().message())};
      }
      if (!Counts(status)) return;
      output_.Add(*index,
                  answer.Line(*index, request.ok() ? *request : v1::GenerateRequest(), status));
      const std::lock_guard lock(mutex_);
      num_failed_ += status.ok() ? 0 : 1;
      bar_.Update(++num_done_, size());
    }
  }

  std::optional<int64_t> Take() {
    const std::lock_guard lock(mutex_);
    if (stopping_ || next_ == size()) return std::nullopt;
    return next_++;
  }

  // Whether a request that ended so has its line: not where all of them ended.
  bool Counts(const grpc::Status& status) {
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
      {
        const std::lock_guard lock(mutex_);
        if (!stopping_) lost_ = status;
      }
      Stop();
      return false;
    }
    const std::lock_guard lock(mutex_);
    return status.ok() || !stopping_;
  }

  grpc::Status Ask(const v1::GenerateRequest& request, BatchAnswer& answer) {
    auto pause = kFirstPause;
    for (int i = 0;; ++i, pause *= 2) {
      const grpc::Status status = AskOnce(request, answer);
      const bool again =
          status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED && answer.empty();
      if (!again || i == kRetries) return status;
      std::unique_lock lock(mutex_);
      if (wake_.wait_for(lock, pause, [this] { return stopping_; })) return status;
    }
  }

  grpc::Status AskOnce(const v1::GenerateRequest& request, BatchAnswer& answer) {
    grpc::ClientContext context;
    SetDeadline(options_.client, context);
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return grpc::Status::CANCELLED;
      calls_.insert(&context);
    }
    const auto reader = stub_->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) answer.Take(response);
    const grpc::Status status = reader->Finish();
    const std::lock_guard lock(mutex_);
    calls_.erase(&context);
    return status;
  }

  const BatchOptions& options_;
  const RequestOptions& defaults_;
  const std::vector<std::string> lines_;
  OrderedOutput& output_;
  const std::unique_ptr<v1::Inference::Stub> stub_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::set<grpc::ClientContext*> calls_;  // under way
  ProgressBar bar_;
  bool stopping_ = false;
  int64_t next_ = 0;
  int64_t num_done_ = 0;
  int64_t num_failed_ = 0;
  grpc::Status lost_;
};

absl::StatusOr<std::vector<std::string>> ReadLines(const std::string& path) {
  std::ifstream file;
  if (path != "-") file.open(path, std::ios::binary);
  std::istream& in = path == "-" ? std::cin : file;
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    if (line.find_first_not_of(" \t\r") != std::string::npos) lines.push_back(line);
  }
  return lines;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "intermix: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace

int RunBatch(const BatchOptions& options, const RequestOptions& defaults) {
  SignalWatcher signals;
  signals.Start(absl::Seconds(5));
  absl::StatusOr<std::vector<std::string>> lines = ReadLines(options.file);
  if (!lines.ok()) return Fail(lines.status());
  const auto output = OrderedOutput::Open(options.output);
  if (!output.ok()) return Fail(output.status());
  int64_t done = 0;
  int64_t failed = 0;
  int64_t size = 0;
  grpc::Status lost;
  {
    BatchRun batch(options, defaults, *std::move(lines), **output);
    signals.SetAction([&batch] { batch.Stop(); });
    batch.Run();
    signals.SetAction([] {});
    done = batch.num_done();
    failed = batch.num_failed();
    size = batch.size();
    lost = batch.lost();
  }
  if (done < size) {
    const std::string kept = (*output)->Abandon();
    std::fprintf(stderr, "intermix: stopped after %ld of %ld requests; their lines are in %s\n",
                 static_cast<long>(done), static_cast<long>(size), kept.c_str());
    const int code = lost.ok() ? 1 : Complain(options.client, lost);
    return signals.signal() != 0 ? 128 + signals.signal() : code;
  }
  if (absl::Status s = (*output)->Finish(); !s.ok()) return Fail(s);
  if (failed == 0) return 0;
  std::fprintf(stderr, "intermix: %ld of %ld requests failed; their lines say why\n",
               static_cast<long>(failed), static_cast<long>(size));
  return 1;
}

}  // namespace intermix
