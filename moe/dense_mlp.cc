#include "moe/dense_mlp.h"

namespace intermix {

void DenseMlp::Forward(const Execution& exec, const TokenRows& rows, const NormedRows& normed,
                       Tensor residual) {
  const Activations all = tp_.AllTokens(exec, rows, normed.activations);
  const Tensor shard = mlp_.Forward(exec, rows.placement, all, Tensor());
  exec.backend.AddRows(tp_.ToResidual(exec, rows, shard), residual);
}

}  // namespace intermix
