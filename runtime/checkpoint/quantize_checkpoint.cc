#include "runtime/checkpoint/quantize_checkpoint.h"

#include <malloc.h>

#include <functional>
#include <future>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint/hf_checkpoint.h"
#include "runtime/checkpoint/linear_tensors.h"
#include "runtime/checkpoint/model_directory.h"
#include "runtime/checkpoint/model_tensors.h"
#include "runtime/checkpoint/output_directory.h"
#include "runtime/checkpoint/quantization_config.h"
#include "runtime/checkpoint/quantize_tensor.h"
#include "runtime/checkpoint/safetensors_writer.h"

namespace intermix {
namespace {

// Layers come and go, one like the other. Memory that went back to the system in between would be
// cleared anew for each of them, which took a fifth of all time.
void KeepFreedMemory() {
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_ARENA_MAX, 1);
}

class CheckpointQuantizer {
 public:
  CheckpointQuantizer(const QuantizeOptions& options, const ModelDirectory& model,
                      const HfCheckpoint& source)
      : options_(options),
        model_(model),
        source_(source),
        files_(source.files()),
        quantization_{.spec = options.spec} {}

  // Writes everything into `out`.
  absl::StatusOr<QuantizeSummary> Run(const OutputDirectory& out) {
    absl::StatusOr<std::vector<SafetensorsSpec>> plan = Plan();
    if (!plan.ok()) return plan.status();
    absl::StatusOr<std::unique_ptr<SafetensorsWriter>> writer =
        SafetensorsWriter::Create(out.partial() + "/model.safetensors", *std::move(plan));
    if (!writer.ok()) return writer.status();
    absl::Status written = ForEachModelTensor(model_.config, [&](const ModelTensor& tensor) {
      if (options_.cancelled && options_.cancelled()) return absl::CancelledError("interrupted");
      absl::Status s = tensor.linear ? WriteLinear(tensor, **writer) : Copy(tensor, **writer);
      if (s.ok()) Report(tensor);
      return s;
    });
    const absl::Status last = WaitForWriting();
    if (written.ok()) written = last;
    if (!written.ok()) return written;
    if (absl::Status s = (*writer)->Finish(); !s.ok()) return s;
    nlohmann::json config = model_.config_json;
    config["quantization_config"] = quantization_.ToJson();
    if (absl::Status s = out.WriteConfig(config); !s.ok()) return s;
    if (absl::Status s = out.CopyCompanions(options_.model_directory); !s.ok()) return s;
    summary_.bytes_in = progress_.bytes_done;
    summary_.bytes_out = (*writer)->file_bytes();
    summary_.description = quantization_.Description();
    if (error_.squared_norm > 0) {
      summary_.relative_squared_error = error_.squared_error / error_.squared_norm;
    }
    return summary_;
  }

 private:
  std::string SourceTensor(const ModelTensor& tensor) const {
    return absl::StrCat(SourceLayer(model_.config, tensor.layer), ".weight");
  }

  // What the file will hold. Shapes and dtypes do not depend on which scales auto will take.
  absl::StatusOr<std::vector<SafetensorsSpec>> Plan() {
    std::vector<SafetensorsSpec> plan;
    absl::Status status = ForEachModelTensor(model_.config, [&](const ModelTensor& tensor) {
      const std::string name = SourceTensor(tensor);
      progress_.bytes_total += files_.bytes(name);
      if (!tensor.linear) {
        absl::StatusOr<DType> dtype =
            files_.CheckDType(name, {DType::kBF16, DType::kF32, DType::kF16});
        if (!dtype.ok()) return dtype.status();
        plan.push_back({.name = name, .dtype = *dtype, .shape = tensor.shape});
        return absl::OkStatus();
      }
      absl::StatusOr<DType> exact = source_.ExactDType(name);
      if (!exact.ok()) return exact.status();
      quantization_.scale_width[tensor.layer] = ScaleWidth::kWide;  // until it is known
      absl::StatusOr<WeightFormat> format = quantization_.FormatOf(tensor.layer, tensor.shape[1]);
      if (!format.ok()) return format.status();
      for (LinearTensor& part : LinearTensors(tensor.layer, *format, tensor.shape)) {
        plan.push_back({.name = std::move(part.name),
                        .dtype = part.dtype.value_or(*exact),
                        .shape = std::move(part.shape)});
      }
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return plan;
  }

  absl::Status WriteLinear(const ModelTensor& tensor, SafetensorsWriter& writer) {
    const int64_t n = tensor.shape[0];
    const Slice all = {.begin = 0, .end = n};
    absl::StatusOr<QuantizedWeight> weight =
        source_.LoadLinear(tensor.layer, n, tensor.shape[1], all);
    if (!weight.ok()) return weight.status();
    quantization_.scale_width[tensor.layer] = weight->format.scale_width;
    if (absl::Status s = StartWriting(tensor, *weight, writer); !s.ok()) return s;
    const bool integer = weight->format.scheme == Scheme::kInteger;
    ++summary_.num_linear;
    summary_.num_folded += integer && weight->format.scale_width == ScaleWidth::kFolded;
    return options_.spec.scheme == Scheme::kNone ? absl::OkStatus() : AddError(tensor, *weight);
  }

  // Writes the tensors of a layer while the next one is quantised.
  absl::Status StartWriting(const ModelTensor& tensor, const QuantizedWeight& weight,
                            SafetensorsWriter& writer) {
    std::vector<LinearTensor> parts = LinearTensors(tensor.layer, weight.format, tensor.shape);
    return StartWriting([parts = std::move(parts), weight, &writer] {
      for (const LinearTensor& part : parts) {
        if (absl::Status s = writer.Write(part.name, weight.*(part.member)); !s.ok()) return s;
      }
      return absl::OkStatus();
    });
  }

  absl::Status StartWriting(std::function<absl::Status()> write) {
    if (absl::Status s = WaitForWriting(); !s.ok()) return s;
    writing_ = std::async(std::launch::async, std::move(write));
    return absl::OkStatus();
  }

  absl::Status WaitForWriting() { return writing_.valid() ? writing_.get() : absl::OkStatus(); }

  absl::Status AddError(const ModelTensor& tensor, const QuantizedWeight& weight) {
    absl::StatusOr<TensorRows> original =
        files_.Rows(SourceTensor(tensor), tensor.shape, {.begin = 0, .end = tensor.shape[0]},
                    {DType::kBF16, DType::kF32, DType::kF16});
    if (!original.ok()) return original.status();
    const WeightError error = MeasureError(original->view, weight);
    error_.squared_error += error.squared_error;
    error_.squared_norm += error.squared_norm;
    return absl::OkStatus();
  }

  absl::Status Copy(const ModelTensor& tensor, SafetensorsWriter& writer) {
    const std::string name = SourceTensor(tensor);
    absl::StatusOr<TensorRows> rows =
        files_.Rows(name, tensor.shape, {.begin = 0, .end = tensor.shape[0]},
                    {DType::kBF16, DType::kF32, DType::kF16});
    if (!rows.ok()) return rows.status();
    ++summary_.num_other;
    return StartWriting([this, name, rows = *std::move(rows), &writer] {
      const absl::Status written = writer.Write(name, rows.view);
      files_.Release(name);
      return written;
    });
  }

  void Report(const ModelTensor& tensor) {
    const std::string name = SourceTensor(tensor);
    if (tensor.linear) files_.Release(name);
    progress_.bytes_done += files_.bytes(name);
    progress_.tensor = tensor.layer;
    if (options_.progress) options_.progress(progress_);
  }

  const QuantizeOptions& options_;
  const ModelDirectory& model_;
  const HfCheckpoint& source_;
  const TensorFiles& files_;
  QuantizationConfig quantization_;
  QuantizeProgress progress_;
  QuantizeSummary summary_;
  WeightError error_;
  std::future<absl::Status> writing_;  // of the last layer
};

}  // namespace

absl::StatusOr<QuantizeSummary> QuantizeCheckpoint(const QuantizeOptions& options) {
  KeepFreedMemory();
  const absl::StatusOr<ModelDirectory> model = ReadModelDirectory(options.model_directory);
  if (!model.ok()) return model.status();
  if (model->quantization) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.model_directory, " is quantised already (",
                     model->quantization->Description(), "); quantise the original instead"));
  }
  const absl::StatusOr<std::unique_ptr<HfCheckpoint>> source =
      HfCheckpoint::Open(options.model_directory, model->config, options.spec);
  if (!source.ok()) return source.status();
  const absl::StatusOr<std::unique_ptr<OutputDirectory>> out =
      OutputDirectory::Create(options.out_directory, options.force);
  if (!out.ok()) return out.status();
  absl::StatusOr<QuantizeSummary> summary =
      CheckpointQuantizer(options, *model, **source).Run(**out);
  if (!summary.ok()) return summary;
  if (absl::Status s = (*out)->Commit(); !s.ok()) return s;
  return summary;
}

}  // namespace intermix
