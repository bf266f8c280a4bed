// AttentionLayer: q/k/v projections, rotary embedding, paged attention, output projection, for the
// heads of this rank. K/V heads are replicated where there are more ranks than K/V heads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/parallel_linear.h"
#include "kernels/backend.h"
#include "moe/residual_stream.h"
#include "runtime/model/forward_context.h"

namespace intermix {

class AttentionLayer {
 public:
  struct Options {
    std::unique_ptr<PackedWeight> qkv;  // [(heads + 2 * kv_heads) * head_dim, hidden]: q, k, v rows
    std::unique_ptr<PackedWeight> o;    // [hidden / tp, all heads * head_dim]
    std::vector<int32_t> kv_head_of;    // [heads of this rank]
    int64_t num_kv_heads = 0;           // of this rank
    int64_t head_dim = 0;
    const Tensor& rope;  // [positions, head_dim] float32; outlives the layer, as does tp
    Communicator& tp;
  };
  explicit AttentionLayer(Options options);

  bool quantized() const { return options_.qkv->quantized(); }
  int64_t weight_bytes() const { return options_.qkv->bytes() + options_.o->bytes(); }

  // Adds the attention of the stream's normalised rows, of ctx.rows.mine.size() tokens, to it.
  //   next  the norm of the layer after this one
  void Forward(const ForwardContext& ctx, int64_t layer, const NextNorm& next,
               ResidualStream& stream) const;

 private:
  Options options_;
  TensorGroup tp_;
};

}  // namespace intermix
