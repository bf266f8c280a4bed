#include "kernels/cuda/model_limits.h"

#include "absl/strings/str_cat.h"

namespace intermix::cuda {
namespace {

absl::Status AtMost(const char* what, int64_t value, int64_t limit, const char* otherwise) {
  if (value <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the CUDA kernels take ", what, " of at most ",
                                                 limit, ", not the model's ", value, "; ",
                                                 otherwise));
}

}  // namespace

absl::Status CheckModelShape(const ModelShape& shape) {
  constexpr char kUseCpu[] = "use --device cpu";
  for (const absl::Status& status :
       {AtMost("a hidden_size", shape.hidden_size, kMaxNormWidth, kUseCpu),
        AtMost("a head_dim", shape.head_dim, kMaxHeadDim, kUseCpu),
        AtMost("a number of experts", shape.num_experts, kMaxExperts, kUseCpu),
        AtMost("a number of heads per rank", shape.num_heads, kMaxHeads, "use a larger --tp")}) {
    if (!status.ok()) return status;
  }
  const int64_t multiple = shape.int8_cache ? 16 : 8;  // cache rows are whole 16-byte pieces
  if (shape.head_dim % multiple == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      shape.int8_cache ? "an int8 KV cache on GPUs needs" : "the CUDA kernels take",
      " a head_dim that is a multiple of ", multiple, ", not the model's ", shape.head_dim,
      shape.int8_cache && shape.head_dim % 8 == 0 ? "; use --kv-dtype bf16"
                                                  : "; use --device cpu"));
}

}  // namespace intermix::cuda
