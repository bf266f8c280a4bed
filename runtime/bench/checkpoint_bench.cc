#include "runtime/bench/checkpoint_bench.h"

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/parallel_groups.h"
#include "comm/self_communicator.h"
#include "comm/watchdog.h"
#include "runtime/bench/random_directory.h"
#include "runtime/bench/turn_timer.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/quantize_checkpoint.h"
#include "runtime/engine/device.h"
#include "runtime/model/transformer.h"

namespace intermix {
namespace {

namespace fs = std::filesystem;

// A folder that goes with its owner.
class ScratchFolder {
 public:
  static absl::StatusOr<ScratchFolder> Make(const std::string& parent) {
    std::string path = absl::StrCat(parent, "/intermix-bench-XXXXXX");
    if (mkdtemp(path.data()) != nullptr) return ScratchFolder(std::move(path));
    return absl::UnavailableError(
        absl::StrCat("cannot make a folder in ", parent, ": ", std::strerror(errno)));
  }
  ScratchFolder(ScratchFolder&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  ~ScratchFolder() {
    std::error_code error;
    if (!path_.empty()) fs::remove_all(path_, error);
  }
  const std::string& path() const { return path_; }

 private:
  explicit ScratchFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// A number of bytes in /proc/self/status, where they are kB; 0 where the system has none.
double StatusBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.compare(0, field.size() + 1, field + ":") == 0) {
      return 1024.0 * std::strtod(line.c_str() + field.size() + 1, nullptr);
    }
  }
  return 0.0;
}

// VmHWM, the peak, counts from here on.
void ForgetPeak() { std::ofstream("/proc/self/clear_refs") << 5; }

// What one way to handle the files took, turn by turn.
struct Series {
  std::string name;
  double bytes = 0.0;  // of one turn
  std::vector<double> seconds;
};

class CheckpointBench {
 public:
  CheckpointBench(const CheckpointBenchOptions& options, Backend& backend, std::string folder)
      : options_(options),
        backend_(backend),
        pool_(options.threads),
        original_(folder + "/original"),
        quantized_(folder + "/quantized") {}

  absl::StatusOr<std::vector<Table>> Run() {
    if (absl::Status s = Prepare(); !s.ok()) return s;
    for (int turn = 0; turn < options_.turns; ++turn) {
      Say(absl::StrCat("quantising, turn ", turn + 1));
      if (absl::Status s = Quantize(); !s.ok()) return s;
      if (absl::Status s = WriteAgain(); !s.ok()) return s;
    }
    malloc_trim(0);
    resident_before_ = StatusBytes("VmRSS");
    for (int turn = 0; turn < options_.turns; ++turn) {
      Say(absl::StrCat("loading, turn ", turn + 1));
      if (absl::Status s = Read(/*new_memory=*/false, read_); !s.ok()) return s;
      if (absl::Status s = Read(/*new_memory=*/true, read_new_); !s.ok()) return s;
      if (absl::Status s = Load(); !s.ok()) return s;
    }
    return std::vector<Table>{Speeds(), Resident()};
  }

 private:
  void Say(const std::string& what) const {
    if (options_.progress) options_.progress(what);
  }
  std::string quantized_file() const { return quantized_ + "/model.safetensors"; }

  absl::Status Prepare() {
    std::error_code error;
    fs::create_directory(original_, error);
    if (error) return absl::UnavailableError(absl::StrCat("cannot create ", original_));
    Say("writing a random model");
    return WriteRandomDirectory(options_.config, original_);
  }

  absl::Status Quantize() {
    const double start = SteadySeconds();
    const absl::StatusOr<QuantizeSummary> summary =
        QuantizeCheckpoint({.model_directory = original_,
                            .out_directory = quantized_,
                            .spec = options_.quant,
                            .force = true});
    quantize_.seconds.push_back(SteadySeconds() - start);
    if (!summary.ok()) return summary.status();
    quantize_.bytes = static_cast<double>(summary->bytes_in);
    return absl::OkStatus();
  }

  // What the disk takes for as many bytes as the quantised file has.
  absl::Status WriteAgain() {
    const std::string path = original_ + "/again";
    const auto size = static_cast<int64_t>(fs::file_size(quantized_file()));
    const std::vector<char> chunk(size_t{4} << 20, 'x');
    const double start = SteadySeconds();
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0;
    for (int64_t rest = size; ok && rest > 0;) {
      const ssize_t written = write(fd, chunk.data(), std::min<int64_t>(rest, chunk.size()));
      ok = written > 0;
      rest -= written;
    }
    ok = ok && fsync(fd) == 0;
    write_.seconds.push_back(SteadySeconds() - start);
    write_.bytes = static_cast<double>(size);
    if (fd >= 0) close(fd);
    std::error_code error;
    fs::remove(path, error);
    return ok ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write ", path));
  }

  // The quantised file from the page cache: into memory that each thread has in its cache, or into
  // as much new memory as the file is long.
  absl::Status Read(bool new_memory, Series& series) {
    constexpr int64_t kChunk = int64_t{1} << 18;
    const auto size = static_cast<int64_t>(fs::file_size(quantized_file()));
    const int fd = open(quantized_file().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return absl::UnavailableError(absl::StrCat("cannot read ", quantized_file()));
    std::vector<std::vector<char>> own(static_cast<size_t>(pool_.num_threads()));
    for (std::vector<char>& memory : own) memory.resize(kChunk);
    std::atomic<int64_t> read{0};
    const double start = SteadySeconds();
    {
      const auto whole = new_memory ? std::unique_ptr<char[]>(new char[static_cast<size_t>(size)])
                                    : std::unique_ptr<char[]>();
      pool_.ParallelFor((size + kChunk - 1) / kChunk, 8, [&](int64_t begin, int64_t end, int w) {
        for (int64_t at = begin * kChunk; at < std::min(end * kChunk, size); at += kChunk) {
          char* to = new_memory ? whole.get() + at : own[static_cast<size_t>(w)].data();
          read += pread(fd, to, static_cast<size_t>(std::min(kChunk, size - at)), at);
        }
      });
      series.seconds.push_back(SteadySeconds() - start);
    }
    series.bytes = static_cast<double>(size);
    close(fd);
    if (read == size) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("cannot read ", quantized_file()));
  }

  absl::Status Load() {
    malloc_trim(0);
    ForgetPeak();
    Watchdog watchdog({.who = "bench"});
    const double start = SteadySeconds();
    std::unique_ptr<Communicator> control = MakeSelfCommunicator();
    absl::StatusOr<std::unique_ptr<Communicator>> devices =
        ConnectDevices(backend_, watchdog, *control);
    if (!devices.ok()) return devices.status();
    const ParallelGroups groups = MakeParallelGroups(*ParallelLayout::Make(1, 1, 1, 0),
                                                     std::move(control), *std::move(devices));
    absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
        OpenCheckpoint(quantized_, options_.quant);
    if (!checkpoint.ok()) return checkpoint.status();
    const absl::StatusOr<std::unique_ptr<Transformer>> model =
        Transformer::Load(**checkpoint, groups, backend_, /*max_positions=*/1, {});
    if (!model.ok()) return model.status();
    load_.seconds.push_back(SteadySeconds() - start);
    load_.bytes = static_cast<double>(fs::file_size(quantized_file()));
    peaks_.push_back(StatusBytes("VmHWM"));
    return absl::OkStatus();
  }

  // `limit` empty: none.
  static std::vector<Cell> RowOf(const Series& series, const Series* limit) {
    std::vector<double> fractions;
    for (size_t i = 0; limit != nullptr && i < series.seconds.size(); ++i) {
      fractions.push_back(limit->seconds[i] / limit->bytes * series.bytes / series.seconds[i]);
    }
    const auto [low, high] = std::minmax_element(series.seconds.begin(), series.seconds.end());
    const double seconds = Median(series.seconds);
    std::vector<Cell> row = {series.name, 1e-9 * series.bytes, seconds,
                             1e-9 * series.bytes / seconds, 100.0 * (*high - *low) / seconds};
    row.push_back(limit == nullptr ? Cell("") : Cell(100.0 * Median(fractions)));
    row.push_back(limit == nullptr ? "" : limit->name);
    return row;
  }

  Table Speeds() const {
    return {.title = "checkpoint",
            .columns = {"work", "GB", "seconds", "GB/s", "spread %", "%", "of"},
            .rows = {RowOf(quantize_, nullptr), RowOf(write_, nullptr), RowOf(read_, nullptr),
                     RowOf(read_new_, nullptr), RowOf(load_, &read_), RowOf(load_, &read_new_)}};
  }

  Table Resident() const {
    const double peak = *std::max_element(peaks_.begin(), peaks_.end());
    return {
        .title = "resident",
        .columns = {"shard GB", "before GB", "peak GB", "peak / shard"},
        .rows = {{1e-9 * load_.bytes, 1e-9 * resident_before_, 1e-9 * peak, peak / load_.bytes}}};
  }

  const CheckpointBenchOptions& options_;
  Backend& backend_;
  ThreadPool pool_;
  const std::string original_;
  const std::string quantized_;
  Series quantize_{.name = "quantise (of the original)"};
  Series write_{.name = "write the quantised size to disk"};
  Series read_{.name = "read the page cache"};
  Series read_new_{.name = "read the page cache into new memory"};
  Series load_{.name = "load"};
  double resident_before_ = 0.0;
  std::vector<double> peaks_;
};

}  // namespace

absl::StatusOr<std::vector<Table>> BenchCheckpoint(const CheckpointBenchOptions& options,
                                                   Backend& backend) {
  const absl::StatusOr<ScratchFolder> folder = ScratchFolder::Make(options.scratch);
  if (!folder.ok()) return folder.status();
  return CheckpointBench(options, backend, folder->path()).Run();
}

}  // namespace intermix
