// Every op that works row by row, on every instruction set and number of threads, equals
// ReferenceBackend bit for bit: ragged widths, zero rows of tokens, rows with NaN and infinities.
#include <algorithm>

#include "tests/parity/parity_test_base.h"

namespace intermix {
namespace {

const std::vector<int64_t> kWidths = {1, 2, 15, 16, 17, 33, 64, 500, 4099};
const std::vector<int64_t> kTokens = {0, 1, 3, 17};

class RowsParityTest : public ParityTest {
 protected:
  // Both outputs of an op that writes `codes` [tokens, width] int8 and `scales` [tokens].
  template <typename Op>
  void ExpectSameActivations(int64_t tokens, int64_t width, const Op& op) {
    ExpectSame(DType::kI8, {tokens, width}, [&](Backend& backend, const Tensor& codes) {
      const OwnedTensor scales = OwnedTensor::Host(DType::kF32, {tokens});
      op(backend, Activations{.values = codes, .scales = scales.view});
    });
    ExpectSame(DType::kF32, {tokens}, [&](Backend& backend, const Tensor& scales) {
      const OwnedTensor codes = OwnedTensor::Host(DType::kI8, {tokens, width});
      op(backend, Activations{.values = codes.view, .scales = scales});
    });
  }

  // Calls op(backend, rows) with int8 and with float32 rows, and compares all that it writes.
  template <typename Op>
  void ExpectSameNormedRows(int64_t tokens, int64_t width, const Op& op) {
    const OwnedTensor values = OwnedTensor::Host(DType::kF32, {tokens, width});
    ExpectSameActivations(tokens, width, [&](Backend& backend, const Activations& out) {
      op(backend, NormedRows{.values = values.view, .activations = out});
    });
    ExpectSame(DType::kF32, {tokens, width}, [&](Backend& backend, const Tensor& y) {
      op(backend, NormedRows{.values = y, .activations = {.values = y, .scales = {}}});
    });
  }
};

TEST_P(RowsParityTest, RowAbsMaxAndQuantizeRows) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t width : kWidths) {
      for (const int64_t tokens : kTokens) {
        SCOPED_TRACE(std::string(Name(dtype)) + " " + std::to_string(width));
        const OwnedTensor x = HostileRows(dtype, tokens, width, 1);
        const OwnedTensor amax = OwnedTensor::Host(DType::kF32, {tokens});
        reference().RowAbsMax(x.view, amax.view);
        ExpectSame(DType::kF32, {tokens},
                   [&](Backend& backend, const Tensor& y) { backend.RowAbsMax(x.view, y); });
        ExpectSameActivations(tokens, width, [&](Backend& backend, const Activations& out) {
          backend.QuantizeRows(x.view, amax.view, out);
        });
        ExpectSameActivations(tokens, width, [&](Backend& backend, const Activations& out) {
          backend.QuantizeRows(x.view, Tensor(), out);
        });
        ExpectSame(DType::kF32, {tokens, width}, [&](Backend& backend, const Tensor& y) {
          backend.QuantizeRows(x.view, amax.view, {.values = y});
        });
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(RowsParityTest, RmsNorm) {
  for (const int64_t width : kWidths) {
    for (const int64_t tokens : kTokens) {
      SCOPED_TRACE(width);
      const OwnedTensor x = HostileRows(DType::kF32, tokens, width, 2);
      const OwnedTensor weight = RandomTensor(DType::kF32, {width}, 3);
      const Norm norm = {.weight = weight.view, .eps = 1e-5f};
      ExpectSameNormedRows(tokens, width, [&](Backend& backend, const NormedRows& out) {
        backend.RmsNorm(x.view, norm, out);
      });
      if (HasFailure()) return;
    }
  }
}

TEST_P(RowsParityTest, AddRmsNorm) {
  for (const int64_t width : kWidths) {
    const OwnedTensor weight = RandomTensor(DType::kF32, {width}, 3);
    const Norm norm = {.weight = weight.view, .eps = 1e-5f};
    const OwnedTensor start = HostileRows(DType::kF32, 17, width, 16);
    const OwnedTensor rows = HostileRows(DType::kBF16, 85, width, 13);
    for (const int64_t top_k : {0, 1, 2, 5}) {  // 0: rows as they are
      SCOPED_TRACE(std::to_string(width) + ", top " + std::to_string(top_k));
      const OwnedTensor row_of = RandomInts({17, std::max<int64_t>(top_k, 1)}, 0, 84, 14);
      const OwnedTensor weights = RandomTensor(DType::kF32, {17, std::max<int64_t>(top_k, 1)}, 15);
      std::vector<Delta> deltas;
      if (top_k == 0) {
        deltas.push_back({.rows = rows.view.Rows(0, 17)});
      } else {
        deltas.push_back({.rows = rows.view, .row_of = row_of.view, .weights = weights.view});
        deltas.push_back({.rows = rows.view, .row_of = {}, .weights = weights.view});
      }
      for (const Delta& delta : deltas) {
        const auto add = [&](Backend& backend, const Tensor& residual, const NormedRows& out) {
          backend.QuantizeRows(start.view, Tensor(), {.values = residual});
          backend.AddRmsNorm(delta, residual, norm, out);
        };
        const OwnedTensor residual = OwnedTensor::Host(DType::kF32, {17, width});
        ExpectSameNormedRows(17, width, [&](Backend& backend, const NormedRows& out) {
          add(backend, residual.view, out);
        });
        ExpectSame(DType::kF32, {17, width}, [&](Backend& backend, const Tensor& y) {
          const OwnedTensor values = OwnedTensor::Host(DType::kF32, {17, width});
          add(backend, y, {.values = values.view, .activations = {.values = values.view}});
        });
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(RowsParityTest, EmbedGatherMerge) {
  for (const int64_t width : kWidths) {
    SCOPED_TRACE(width);
    const OwnedTensor delta = HostileRows(DType::kBF16, 17, width, 4);
    const OwnedTensor start = HostileRows(DType::kF32, 17, width + 3, 5);
    ExpectSame(DType::kF32, {17, width}, [&](Backend& backend, const Tensor& y) {
      backend.QuantizeRows(start.view.Cols(3, width + 3), Tensor(), {.values = y});
    });
    const OwnedTensor ids = RandomInts({40}, 0, 16, 6);
    for (const Tensor& table : {delta.view, start.view.Cols(0, width)}) {
      ExpectSame(DType::kF32, {40, width},
                 [&](Backend& backend, const Tensor& y) { backend.EmbedRows(ids.view, table, y); });
      ExpectSame(table.dtype(), {40, width}, [&](Backend& backend, const Tensor& y) {
        backend.GatherRows(table, ids.view, y);
      });
    }
    const OwnedTensor shards = RandomTensor(DType::kBF16, {3, 5, width}, 7);
    ExpectSame(DType::kBF16, {5, 3 * width},
               [&](Backend& backend, const Tensor& y) { backend.MergeColumns(shards.view, y); });
  }
  const OwnedTensor scales = RandomTensor(DType::kF32, {17}, 8);
  const OwnedTensor index = RandomInts({30}, 0, 16, 9);
  ExpectSame(DType::kF32, {30}, [&](Backend& backend, const Tensor& y) {
    backend.GatherRows(scales.view, index.view, y);
  });
}

TEST_P(RowsParityTest, RouteWithTiesAndNan) {
  for (const int64_t num_experts : {1, 2, 8, 37}) {
    for (const int64_t top_k : {1, 2, 6}) {
      if (top_k > num_experts) continue;
      SCOPED_TRACE(std::to_string(num_experts) + " experts, top " + std::to_string(top_k));
      const OwnedTensor x = HostileRows(DType::kF32, 17, 100, 11);
      const OwnedTensor gate = RandomTensor(DType::kF32, {num_experts, 100}, 12);
      for (int64_t e = 3; e + 2 < num_experts; e += 3) {  // equal experts: ties
        for (int64_t k = 0; k < 100; ++k)
          gate.view.row<float>(e + 2)[k] = gate.view.row<float>(e)[k];
      }
      ExpectSame(DType::kI32, {17, top_k}, [&](Backend& backend, const Tensor& experts) {
        const OwnedTensor weights = OwnedTensor::Host(DType::kF32, {17, top_k});
        backend.Route(x.view, gate.view, experts, weights.view);
      });
      ExpectSame(DType::kF32, {17, top_k}, [&](Backend& backend, const Tensor& weights) {
        const OwnedTensor experts = OwnedTensor::Host(DType::kI32, {17, top_k});
        backend.Route(x.view, gate.view, experts.view, weights);
      });
    }
  }
}

TEST_P(RowsParityTest, TopK) {
  for (const int64_t width : {1, 7, 16, 63, 64, 65, 500, 4099}) {
    for (const int64_t k : {1, 2, 7, kMaxTopK}) {
      SCOPED_TRACE(std::to_string(k) + " of " + std::to_string(width));
      const OwnedTensor x = RowsWithTies(17, width + 5, 17);
      const Tensor row = x.view.Cols(3, width + 3);
      ExpectSame(DType::kF32, {17, k}, [&](Backend& backend, const Tensor& values) {
        const OwnedTensor columns = OwnedTensor::Host(DType::kI32, {17, k});
        backend.TopK(row, values, columns.view);
      });
      ExpectSame(DType::kI32, {17, k}, [&](Backend& backend, const Tensor& columns) {
        const OwnedTensor values = OwnedTensor::Host(DType::kF32, {17, k});
        backend.TopK(row, values.view, columns);
      });
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, RowsParityTest, AllIsas(), IsaName);

}  // namespace
}  // namespace intermix
