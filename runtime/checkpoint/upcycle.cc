#include "runtime/checkpoint/upcycle.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/core/buffer.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint/expert_rewrite.h"
#include "runtime/checkpoint/model_directory.h"
#include "runtime/checkpoint/model_tensors.h"
#include "runtime/checkpoint/output_directory.h"
#include "runtime/checkpoint/safetensors_writer.h"
#include "runtime/checkpoint/tensor_files.h"

namespace intermix {
namespace {

// The dense model's config.json as a Mixtral's. Where LLaMA's defaults differ from Mixtral's, they
// are spelled out.
nlohmann::json MixtralJson(const ModelDirectory& dense, const UpcycleOptions& options) {
  nlohmann::json config = dense.config_json;
  config["architectures"] = {"MixtralForCausalLM"};
  config["model_type"] = "mixtral";
  config["num_local_experts"] = options.num_experts;
  config["num_experts_per_tok"] = options.top_k;
  config["sliding_window"] = nullptr;
  config["max_position_embeddings"] = dense.config.max_position_embeddings;
  config["num_key_value_heads"] = dense.config.num_key_value_heads;
  config["head_dim"] = dense.config.head_dim;
  config["rms_norm_eps"] = dense.config.rms_norm_eps;
  config["rope_theta"] = dense.config.rope_theta;
  config["tie_word_embeddings"] = dense.config.tie_word_embeddings;
  return config;
}

class Upcycler {
 public:
  Upcycler(const UpcycleOptions& options, const ModelConfig& dense, const ModelConfig& mixtral,
           const TensorFiles& files)
      : options_(options), dense_(dense), mixtral_(mixtral), files_(files), random_(options.seed) {}

  // Writes the weights to `path`.
  absl::StatusOr<UpcycleSummary> Run(const std::string& path) {
    absl::StatusOr<std::vector<SafetensorsSpec>> plan = Plan();
    if (!plan.ok()) return plan.status();
    absl::StatusOr<std::unique_ptr<SafetensorsWriter>> writer =
        SafetensorsWriter::Create(path, *std::move(plan));
    if (!writer.ok()) return writer.status();
    writer_ = std::move(*writer);
    absl::Status written = ForEachModelTensor(dense_, [&](const ModelTensor& tensor) {
      if (options_.cancelled && options_.cancelled()) return absl::CancelledError("interrupted");
      if (IsTied(tensor)) return absl::OkStatus();
      absl::Status s = absl::OkStatus();
      if (absl::EndsWith(tensor.layer, ".mlp.down_proj")) {
        s = WriteMoe(std::string(absl::StripSuffix(tensor.layer, "mlp.down_proj")));
      } else if (!absl::StrContains(tensor.layer, ".mlp.")) {
        s = Copy(tensor);
      }
      summary_.bytes_in += files_.bytes(tensor.layer + ".weight");
      return s;
    });
    if (!written.ok()) return written;
    if (absl::Status s = writer_->Finish(); !s.ok()) return s;
    summary_.bytes_out = writer_->file_bytes();
    return summary_;
  }

 private:
  // A layer's, and the powers of two that up can be multiplied by, and down divided by, exactly.
  struct Mlp {
    Tensor gate;
    Tensor up;
    Tensor down;
    ExponentRange scalings;
  };
  static constexpr std::initializer_list<DType> kFloats = {DType::kBF16, DType::kF32, DType::kF16};

  // A tied lm_head has no tensor of its own.
  bool IsTied(const ModelTensor& tensor) const {
    return SourceLayer(dense_, tensor.layer) != tensor.layer;
  }

  // The dense model's tensor `layer`, whole.
  absl::StatusOr<TensorRows> Read(const std::string& layer, const std::vector<int64_t>& shape) {
    return files_.Rows(layer + ".weight", shape, {.begin = 0, .end = shape[0]}, kFloats);
  }

  // What the file will hold: experts in the dtype of the MLP that they come from.
  absl::StatusOr<std::vector<SafetensorsSpec>> Plan() {
    std::vector<SafetensorsSpec> plan;
    absl::Status status = ForEachModelTensor(mixtral_, [&](const ModelTensor& tensor) {
      if (IsTied(tensor)) return absl::OkStatus();
      absl::StatusOr<DType> dtype = DType::kBF16;  // the router's
      const size_t moe = tensor.layer.find("block_sparse_moe.");
      const std::string name = tensor.layer + ".weight";
      if (moe == std::string::npos) {
        dtype = files_.CheckDType(name, kFloats);
      } else if (!absl::EndsWith(tensor.layer, ".gate")) {
        const char* of = absl::EndsWith(name, "w1.weight")   ? "mlp.gate_proj.weight"
                         : absl::EndsWith(name, "w2.weight") ? "mlp.down_proj.weight"
                                                             : "mlp.up_proj.weight";
        dtype = files_.CheckDType(tensor.layer.substr(0, moe) + of, kFloats);
      }
      if (!dtype.ok()) return dtype.status();
      plan.push_back({.name = name, .dtype = *dtype, .shape = tensor.shape});
      int64_t bytes = static_cast<int64_t>(ByteSize(*dtype));
      for (int64_t extent : tensor.shape) bytes *= extent;
      bytes_total_ += bytes;
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return plan;
  }

  absl::Status Copy(const ModelTensor& tensor) {
    absl::StatusOr<TensorRows> rows = Read(tensor.layer, tensor.shape);
    if (!rows.ok()) return rows.status();
    absl::Status s = Write(tensor.layer, rows->view);
    files_.Release(tensor.layer + ".weight");
    return s;
  }

  absl::Status Write(const std::string& layer, const Tensor& tensor) {
    if (absl::Status s = writer_->Write(layer + ".weight", tensor); !s.ok()) return s;
    bytes_done_ += tensor.bytes();
    if (options_.progress) options_.progress(bytes_done_, bytes_total_);
    return absl::OkStatus();
  }

  // Router and experts of the layer `prefix` ("model.layers.0.").
  absl::Status WriteMoe(const std::string& prefix) {
    const std::vector<int64_t> in = {dense_.intermediate_size, dense_.hidden_size};
    const std::vector<int64_t> out = {dense_.hidden_size, dense_.intermediate_size};
    absl::StatusOr<TensorRows> gate = Read(prefix + "mlp.gate_proj", in);
    absl::StatusOr<TensorRows> up = Read(prefix + "mlp.up_proj", in);
    absl::StatusOr<TensorRows> down = Read(prefix + "mlp.down_proj", out);
    for (const auto* tensor : {&gate, &up, &down}) {
      if (!tensor->ok()) return tensor->status();
    }
    const ExponentRange of_up = ExactScalings(up->view);
    const ExponentRange of_down = ExactScalings(down->view);
    const Mlp mlp = {.gate = gate->view,
                     .up = up->view,
                     .down = down->view,
                     .scalings = {.smallest = std::max(of_up.smallest, -of_down.largest),
                                  .largest = std::min(of_up.largest, -of_down.smallest)}};
    const std::string moe = prefix + "block_sparse_moe.";
    if (absl::Status s = WriteRouter(moe + "gate"); !s.ok()) return s;
    for (int64_t e = 0; e < options_.num_experts; ++e) {
      if (options_.cancelled && options_.cancelled()) return absl::CancelledError("interrupted");
      absl::Status s = WriteExpert(absl::StrCat(moe, "experts.", e, "."), mlp);
      if (!s.ok()) return s;
    }
    for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
      files_.Release(absl::StrCat(prefix, "mlp.", name, ".weight"));
    }
    return absl::OkStatus();
  }

  // Steps of one power of two, which every dtype holds exactly; with inputs of a normalised row the
  // logits are about 2 wide.
  absl::Status WriteRouter(const std::string& layer) {
    const int64_t hidden = dense_.hidden_size;
    const auto width = static_cast<float>(hidden);
    const float step = std::exp2(std::round(std::log2(2.0f / (73.0f * std::sqrt(width)))));
    const OwnedTensor router = OwnedTensor::Host(DType::kBF16, {options_.num_experts, hidden});
    auto* weights = router.view.data<BFloat16>();
    for (int64_t i = 0; i < router.view.num_elements(); ++i) {
      const auto steps = static_cast<float>(static_cast<int64_t>(random_() % 255) - 127);
      weights[i] = BFloat16(steps * step);
    }
    return Write(layer, router.view);
  }

  absl::Status WriteExpert(const std::string& expert, const Mlp& mlp) {
    const ExpertRewrite rewrite = DrawExpertRewrite(dense_.intermediate_size, random_);
    const int exponent = std::clamp(rewrite.exponent, mlp.scalings.smallest, mlp.scalings.largest);
    const auto write = [&](const char* name, const Tensor& source, auto gather, int scale) {
      const OwnedTensor copy = OwnedTensor::Host(source.dtype(), {source.rows(), source.cols()});
      gather(source, rewrite.order, copy.view);
      if (scale != 0) ScaleByPowerOfTwo(copy.view, scale);
      return Write(expert + name, copy.view);
    };
    if (absl::Status s = write("w1", mlp.gate, GatherRows, 0); !s.ok()) return s;
    if (absl::Status s = write("w2", mlp.down, GatherCols, -exponent); !s.ok()) return s;
    return write("w3", mlp.up, GatherRows, exponent);
  }

  const UpcycleOptions& options_;
  const ModelConfig& dense_;
  const ModelConfig& mixtral_;
  const TensorFiles& files_;
  std::mt19937_64 random_;
  std::unique_ptr<SafetensorsWriter> writer_;
  int64_t bytes_done_ = 0;
  int64_t bytes_total_ = 0;
  UpcycleSummary summary_;
};

}  // namespace

absl::StatusOr<UpcycleSummary> UpcycleCheckpoint(const UpcycleOptions& options) {
  const absl::StatusOr<ModelDirectory> dense = ReadModelDirectory(options.model_directory);
  if (!dense.ok()) return dense.status();
  if (dense->quantization || dense->config.is_moe()) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.model_directory, " is ", dense->quantization ? "quantised" : "a mixture of experts",
        " already; ", "a dense LLaMA directory is needed"));
  }
  const nlohmann::json json = MixtralJson(*dense, options);
  const absl::StatusOr<ModelConfig> mixtral = ModelConfig::FromJson(json);
  if (!mixtral.ok()) return mixtral.status();
  const absl::StatusOr<TensorFiles> files = TensorFiles::Open(options.model_directory);
  if (!files.ok()) return files.status();
  std::error_code error;
  if (std::filesystem::is_directory(options.out_directory, error) &&
      !std::filesystem::is_empty(options.out_directory, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.out_directory, " is not empty; name another directory"));
  }
  const absl::StatusOr<std::unique_ptr<OutputDirectory>> out =
      OutputDirectory::Create(options.out_directory, /*force=*/false);
  if (!out.ok()) return out.status();
  absl::StatusOr<UpcycleSummary> summary = Upcycler(options, dense->config, *mixtral, *files)
                                               .Run((*out)->partial() + "/model.safetensors");
  if (!summary.ok()) return summary;
  if (absl::Status s = (*out)->WriteConfig(json); !s.ok()) return s;
  if (absl::Status s = (*out)->CopyCompanions(options.model_directory); !s.ok()) return s;
  if (absl::Status s = (*out)->Commit(); !s.ok()) return s;
  return summary;
}

}  // namespace intermix
