#include "moe/dense_mlp.h"

#include <array>

namespace intermix {

void DenseMlp::Forward(const Execution& exec, const TokenRows& rows, const NormedRows& normed,
                       Tensor residual) {
  const Activations all = tp_.AllTokens(exec, rows, normed.activations);
  const std::array<int32_t, 2> offsets = {0, static_cast<int32_t>(rows.tokens)};
  const Tensor shard = mlp_.Forward(exec, rows.placement, all, offsets);
  exec.backend.AddRows(tp_.ToResidual(exec, rows, shard), residual);
}

}  // namespace intermix
