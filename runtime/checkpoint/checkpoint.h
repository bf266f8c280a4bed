// Checkpoint: the weights of a model by their Hugging Face names, read slice by slice.
//
// Linear layers come in canonical form (quantised, or as they are under Scheme::kNone); the rest
// (embedding, norms, router gates) as float32 or bfloat16. Only the byte ranges that are asked for
// are touched: files are mapped. Immutable; safe to use from several threads at once.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "comm/sharding.h"
#include "kernels/core/buffer.h"
#include "kernels/quant/integer_scale.h"
#include "kernels/quant/weight.h"
#include "runtime/model/model_config.h"

namespace intermix {

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  virtual const ModelConfig& config() const = 0;

  // What the checkpoint's linear layers are: "integer folded/wide W4 g128", for people.
  virtual std::string description() const = 0;

  // Rows `rows` (out features) of linear layer `name` ("model.layers.0.self_attn.q_proj", no
  // ".weight"), of whole shape [n, k]. Rows beyond n are zero rows (a padded vocabulary).
  // Quantised slices have passed VerifyCertificate.
  //   NOT_FOUND naming the tensor; INVALID_ARGUMENT naming tensor, shape or dtype.
  virtual absl::StatusOr<QuantizedWeight> LoadLinear(const std::string& name, int64_t n, int64_t k,
                                                     Slice rows) const = 0;

  // Rows and columns of tensor `name` ("model.norm.weight") of whole shape [n, k], or [k] with n =
  // 1 (the view is then [cols]). Copied; `dtype` is kF32 or kBF16, and must hold the values
  // exactly.
  virtual absl::StatusOr<OwnedTensor> LoadTensor(const std::string& name, int64_t n, int64_t k,
                                                 Slice rows, Slice cols, DType dtype) const = 0;

  // The dtype that holds tensor `name` exactly: kBF16 or kF32 (float16 is widened).
  virtual absl::StatusOr<DType> ExactDType(const std::string& name) const = 0;
};

// Opens a quantised directory (written by WriteQuantizedCheckpoint), or a Hugging Face directory
// (model.safetensors or model.safetensors.index.json), whose linear layers are then quantised under
// `spec` as they are loaded. lm_head is quantised to 8 bits with the same scheme and group size.
// ScaleChoice::kAuto needs each whole tensor read to decide; folded or wide touch only own rows.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& directory,
                                                           const QuantSpec& spec);

}  // namespace intermix
