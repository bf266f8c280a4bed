// A step's rows, seen from one rank:
//   own slots sorted by expert --(all-to-all)--> by source rank, then expert --(gather)--> by
//   expert
// and back. A group of etp > 1 ranks shares its experts' columns, so each of its ranks gets the
// same rows, and each returns its columns of the results.
#include "comm/byte_counts.h"
#include "moe/token_dispatcher.h"

namespace intermix {
namespace {

class AllToAllDispatcher final : public TokenDispatcher {
 public:
  AllToAllDispatcher(const ExpertPlacement& placement, Communicator& world)
      : placement_(placement), world_(world) {}

  ExpertInput Dispatch(const Execution& exec, const TokenRows&, const Activations& tokens,
                       const Routing& routing) override {
    const ExpertOrder order = SortByExpert(exec, routing.experts, 0, placement_.num_experts);
    offsets_ = exec.Download<int32_t>(order.row_offsets);
    row_of_ = order.row_of_slot.Reshape({routing.tokens(), routing.top_k()});
    ExchangeCounts(exec);
    const Activations sent =
        GatherActivations(exec, tokens, exec.Upload(SendIndex(exec, order.token_of_row)));
    const Activations received = Exchange(exec, sent);
    std::vector<int32_t> row_offsets;
    const std::vector<int32_t> by_expert = SortReceived(&row_offsets);
    return {.rows = GatherActivations(exec, received, exec.Upload(by_expert)),
            .row_offsets = exec.Upload(row_offsets)};
  }

  ExpertResults Combine(const Execution& exec, const Tensor& output) override {
    const Tensor by_source = exec.Take(output.dtype(), {output.rows(), output.cols()});
    exec.backend.GatherRows(output, exec.Upload(received_row_of_), by_source);
    const Tensor returned = exec.Take(output.dtype(), {Total(send_rows_), output.cols()});
    const int64_t row_bytes = BytesPerRow(output);
    world_.AllToAll(by_source.raw(), RowBytes(recv_rows_, row_bytes), returned.raw(),
                    RowBytes(send_rows_, row_bytes));
    return {.rows = MergeGroups(exec, returned), .row_of = row_of_};
  }

 private:
  int world_size() const { return placement_.layout.world; }

  Slice GroupRows(int group) const {  // of the sorted slots, those for one expert group
    const Slice experts = placement_.experts_of_group(group);
    return {.begin = offsets_[experts.begin], .end = offsets_[experts.end]};
  }

  // Tells every rank how many rows each of its experts gets from here.
  void ExchangeCounts(const Execution& exec) {
    const int local = placement_.experts_per_group();
    std::vector<int32_t> sent;
    send_rows_.clear();
    for (int r = 0; r < world_size(); ++r) {
      const int group = placement_.layout.ep_rank(r);
      const Slice experts = placement_.experts_of_group(group);
      for (int64_t e = experts.begin; e < experts.end; ++e) {
        sent.push_back(offsets_[e + 1] - offsets_[e]);
      }
      send_rows_.push_back(GroupRows(group).size());
    }
    const std::vector<int64_t> bytes(world_size(), local * static_cast<int64_t>(sizeof(int32_t)));
    const Tensor received = exec.Take(DType::kI32, {world_size() * local});
    world_.AllToAll(exec.Upload(sent).raw(), bytes, received.raw(), bytes);
    recv_counts_ = exec.Download<int32_t>(received);
    recv_rows_.assign(world_size(), 0);
    for (size_t i = 0; i < recv_counts_.size(); ++i) recv_rows_[i / local] += recv_counts_[i];
  }

  // Which token each sent row is, rank after rank.
  std::vector<int32_t> SendIndex(const Execution& exec, const Tensor& token_of_row) const {
    const std::vector<int32_t> tokens = exec.Download<int32_t>(token_of_row);
    std::vector<int32_t> index;
    for (int r = 0; r < world_size(); ++r) {
      const Slice rows = GroupRows(placement_.layout.ep_rank(r));
      index.insert(index.end(), tokens.begin() + rows.begin, tokens.begin() + rows.end);
    }
    return index;
  }

  Activations Exchange(const Execution& exec, const Activations& sent) {
    const Activations received =
        exec.TakeActivations(Total(recv_rows_), sent.values.cols(), sent.quantized());
    const int64_t row_bytes = BytesPerRow(sent.values);
    world_.AllToAll(sent.values.raw(), RowBytes(send_rows_, row_bytes), received.values.raw(),
                    RowBytes(recv_rows_, row_bytes));
    if (sent.quantized()) {
      constexpr int64_t kScaleBytes = sizeof(float);
      world_.AllToAll(sent.scales.raw(), RowBytes(send_rows_, kScaleBytes), received.scales.raw(),
                      RowBytes(recv_rows_, kScaleBytes));
    }
    return received;
  }

  // Received rows come by source, then expert; the experts want them by expert, then source.
  // Returns the received row of each sorted row and remembers the inverse.
  std::vector<int32_t> SortReceived(std::vector<int32_t>* offsets) {
    const int local = placement_.experts_per_group();
    offsets->assign(local + 1, 0);
    for (size_t i = 0; i < recv_counts_.size(); ++i) {
      (*offsets)[i % local + 1] += recv_counts_[i];
    }
    for (int e = 0; e < local; ++e) (*offsets)[e + 1] += (*offsets)[e];
    std::vector<int32_t> next(offsets->begin(), offsets->end() - 1);
    std::vector<int32_t> sorted(offsets->back());
    received_row_of_.clear();
    for (size_t i = 0; i < recv_counts_.size(); ++i) {
      for (int32_t c = 0; c < recv_counts_[i]; ++c) {
        const int32_t row = next[i % local]++;
        sorted[row] = static_cast<int32_t>(received_row_of_.size());
        received_row_of_.push_back(row);
      }
    }
    return sorted;
  }

  // Puts the columns of each group's etp ranks side by side.
  //   returned  [slots * etp, hidden / etp]: group after group; in a group, rank after rank
  //   returns   [slots, hidden], sorted by expert
  Tensor MergeGroups(const Execution& exec, const Tensor& returned) const {
    const int etp = placement_.layout.etp;
    if (etp == 1) return returned;
    const int64_t cols = returned.cols();
    const Tensor merged = exec.Take(returned.dtype(), {returned.rows() / etp, cols * etp});
    for (int group = 0; group < placement_.layout.ep; ++group) {
      const Slice rows = GroupRows(group);
      const Tensor shards = returned.Rows(rows.begin * etp, rows.end * etp);
      exec.backend.MergeColumns(shards.Reshape({etp, rows.size(), cols}),
                                merged.Rows(rows.begin, rows.end));
    }
    return merged;
  }

  ExpertPlacement placement_;
  Communicator& world_;

  // Of the step under way, between Dispatch and Combine.
  std::vector<int32_t> offsets_;          // [experts + 1]: own slots of each expert
  Tensor row_of_;                         // [tokens, top_k]: the sorted row of each own slot
  std::vector<int32_t> recv_counts_;      // [world, local experts]
  std::vector<int64_t> send_rows_;        // [world]
  std::vector<int64_t> recv_rows_;        // [world]
  std::vector<int32_t> received_row_of_;  // sorted row of each received row
};

}  // namespace

std::unique_ptr<TokenDispatcher> MakeAllToAllDispatcher(const ExpertPlacement& placement,
                                                        Communicator& world) {
  return std::make_unique<AllToAllDispatcher>(placement, world);
}

}  // namespace intermix
