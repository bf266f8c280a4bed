// The gated epilogue of a tile: out features 2i and 2i + 1 of the weight are gate and up of hidden
// feature i, and y gets bfloat16(silu(gate) * up). Device code.
#pragma once

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/gemm_epilogue_sm80.h"

namespace intermix::cuda {

// A hidden feature's bits, from the sums of its gate and its up.
template <class G>
INTERMIX_DEVICE uint16_t HiddenBits(const FeatureScale<G> (&scales)[2], typename G::Sum gate,
                                    typename G::Sum up, float row_scale) {
  return to_bf16(
      mul_rn(lane_silu(scales[0].Value(gate, row_scale)), scales[1].Value(up, row_scale)));
}

// A lane's pair of out features is one hidden feature. It makes that of its two tokens and swaps
// one with the lane beside it, so that each stores two adjacent hidden features of one token. Every
// lane takes part, also for what does not exist.
template <class G>
INTERMIX_DEVICE void StoreGatedTile(const GemmArgs& args, const ThreadPlace<G>& place,
                                    const TilePlace& tile, const Accumulators<G>& acc) {
  const GemmExpert& expert = args.experts[tile.expert];
  const int32_t feature = tile.feature + place.Feature(0);
  const int32_t num_hidden = args.n / 2;
  const int odd = place.g() % 2;
  const bool pairs = reinterpret_cast<uintptr_t>(args.y) % 4 == 0 && args.y_stride % 2 == 0;
  uint16_t* const y = static_cast<uint16_t*>(args.y) + tile.row * args.y_stride;
#pragma unroll
  for (int i = 0; i < G::kFeatureTiles; ++i) {
    if (feature + i * 16 - 2 * place.g() >= args.n) break;  // the same for the whole warp
    FeatureScale<G> scales[2];
    scales[0].Read(expert, feature + i * 16);  // are there: the arrays are padded to 16
    scales[1].Read(expert, feature + i * 16 + 1);
    const int32_t column = feature / 2 + i * 8 - odd;
#pragma unroll
    for (int j = 0; j < G::kTokenTiles; ++j) {
      int32_t hidden[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int token = place.Token(j) + h;
        const float row_scale = token < tile.num_rows ? args.x_scales[tile.row + token] : 0.0f;
        hidden[h] = HiddenBits<G>(scales, acc.sum[i][j][h], acc.sum[i][j][2 + h], row_scale);
      }
      const int32_t other = shfl_xor_s32(odd == 0 ? hidden[1] : hidden[0], 4);
      const int32_t low = odd == 0 ? hidden[0] : other;
      const int32_t high = odd == 0 ? other : hidden[1];
      const int token = place.Token(j) + odd;
      if (token >= tile.num_rows) continue;
      uint16_t* const to = y + token * args.y_stride + column;
      if (pairs && column + 1 < num_hidden) {
        *reinterpret_cast<uint32_t*>(to) = static_cast<uint32_t>(low | high << 16);
      } else {
        if (column < num_hidden) to[0] = static_cast<uint16_t>(low);
        if (column + 1 < num_hidden) to[1] = static_cast<uint16_t>(high);
      }
    }
  }
}

}  // namespace intermix::cuda
