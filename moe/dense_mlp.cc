#include "moe/dense_mlp.h"

namespace intermix {

void DenseMlp::Forward(const Execution& exec, const TokenRows& rows, const NextNorm& next,
                       ResidualStream& stream) {
  const Activations all = tp_.AllTokens(exec, rows, stream.normed().activations);
  const Tensor shard = mlp_.Forward(exec, rows.placement, all, Tensor());
  stream.Add(exec, {.rows = tp_.ToResidual(exec, rows, shard)}, next);
}

}  // namespace intermix
