// A step's rows, seen from one rank:
//   own slots sorted by expert --(all-to-all)--> by source rank, then expert --(gather)--> by
//   expert
// and back. A group of etp > 1 ranks shares its experts' columns, so each of its ranks gets the
// same rows, and each returns its columns of the results.
//
// In two halves, with what the device works on (above) while which rows travel (below):
//   sort, read counts |       | experts A | experts B |        | combine
//                     | A out | B out     | A back    | B back |
// All that the host must know, the counts, it learns before the first row leaves.
#include <numeric>

#include "comm/byte_counts.h"
#include "moe/token_dispatcher.h"

namespace intermix {
namespace {

// Some of the tokens on their way.
struct Portion {
  Slice tokens;
  ExpertOrder order;             // of their slots
  std::vector<int32_t> offsets;  // [experts + 1]: own slots of each expert

  std::vector<int32_t> recv_counts;  // [world, local experts]
  std::vector<int64_t> send_rows;    // [world]
  std::vector<int64_t> recv_rows;    // [world]

  Tensor sent_token;   // the token of each sent row, rank after rank
  Tensor sorted_from;  // the received row of each row sorted by expert
  Tensor sorted_row;   // its inverse
  Tensor row_offsets;  // [local experts + 1]

  Activations received;
  Tensor returned;
  int64_t exchange = 0;  // the last one begun
};

class AllToAllDispatcher final : public TokenDispatcher {
 public:
  AllToAllDispatcher(const ExpertPlacement& placement, Communicator& world, int64_t overlap_tokens)
      : placement_(placement), world_(world), overlap_tokens_(overlap_tokens) {}

  std::vector<ExpertResults> Run(const Execution& exec, const TokenRows& rows,
                                 const Activations& tokens, const Routing& routing,
                                 const ExpertWork& work) override {
    std::vector<Portion> parts = Plan(exec, rows, routing);
    for (Portion& part : parts) SendRows(exec, tokens, part);
    for (Portion& part : parts) {
      world_.WaitForAllToAll(part.exchange);
      const Activations sorted = GatherActivations(exec, part.received, part.sorted_from);
      exec.backend.AddRowCounts(part.row_offsets, work.totals);
      SendBack(exec, work.run({.rows = sorted, .row_offsets = part.row_offsets}), part);
    }
    std::vector<ExpertResults> results;
    for (const Portion& part : parts) {
      world_.WaitForAllToAll(part.exchange);
      results.push_back(
          {.tokens = part.tokens,
           .rows = MergeGroups(exec, part),
           .row_of = part.order.row_of_slot.Reshape({part.tokens.size(), routing.top_k()})});
    }
    return results;
  }

 private:
  int world_size() const { return placement_.layout.world; }

  // One part or two, the same on every rank: only what all ranks know decides.
  std::vector<Portion> Plan(const Execution& exec, const TokenRows& rows, const Routing& routing) {
    const int64_t all_tokens = Total(rows.group_tokens);
    const bool halves = placement_.layout.etp == 1 && all_tokens / world_size() >= overlap_tokens_;
    const int64_t tokens = routing.tokens();
    const int64_t middle = halves ? (tokens + 1) / 2 : tokens;
    std::vector<Portion> parts = {{.tokens = {.begin = 0, .end = middle}}};
    if (halves) parts.push_back({.tokens = {.begin = middle, .end = tokens}});
    for (Portion& part : parts) {
      const Tensor experts = routing.experts.Rows(part.tokens.begin, part.tokens.end);
      part.order = SortByExpert(exec, experts, 0, placement_.num_experts);
    }
    for (Portion& part : parts) part.offsets = exec.Download<int32_t>(part.order.row_offsets);
    ExchangeCounts(exec, parts);
    for (Portion& part : parts) {
      part.sent_token = exec.Upload(SentTokens(exec, part));
      SortReceived(exec, part);
    }
    return parts;
  }

  Slice GroupRows(const Portion& part, int group) const {  // sorted slots for one expert group
    const Slice experts = placement_.experts_of_group(group);
    return {.begin = part.offsets[experts.begin], .end = part.offsets[experts.end]};
  }

  // Tells every rank how many rows of each part each of its experts gets from here.
  void ExchangeCounts(const Execution& exec, std::vector<Portion>& parts) {
    const int local = placement_.experts_per_group();
    const int per_rank = local * static_cast<int>(parts.size());
    std::vector<int32_t> sent;
    for (int r = 0; r < world_size(); ++r) {
      const int group = placement_.layout.ep_rank(r);
      const Slice experts = placement_.experts_of_group(group);
      for (Portion& part : parts) {
        for (int64_t e = experts.begin; e < experts.end; ++e) {
          sent.push_back(part.offsets[e + 1] - part.offsets[e]);
        }
        part.send_rows.push_back(GroupRows(part, group).size());
      }
    }
    const std::vector<int64_t> bytes(world_size(),
                                     per_rank * static_cast<int64_t>(sizeof(int32_t)));
    const Tensor received = exec.Take(DType::kI32, {world_size() * per_rank});
    world_.AllToAll(exec.Upload(sent).raw(), bytes, received.raw(), bytes);
    const std::vector<int32_t> counts = exec.Download<int32_t>(received);
    auto next = counts.begin();
    for (int r = 0; r < world_size(); ++r) {
      for (Portion& part : parts) {
        part.recv_counts.insert(part.recv_counts.end(), next, next + local);
        part.recv_rows.push_back(std::accumulate(next, next + local, int64_t{0}));
        next += local;
      }
    }
  }

  // Which token each sent row is, rank after rank.
  std::vector<int32_t> SentTokens(const Execution& exec, const Portion& part) const {
    const std::vector<int32_t> tokens = exec.Download<int32_t>(part.order.token_of_row);
    std::vector<int32_t> index;
    for (int r = 0; r < world_size(); ++r) {
      const Slice rows = GroupRows(part, placement_.layout.ep_rank(r));
      index.insert(index.end(), tokens.begin() + rows.begin, tokens.begin() + rows.end);
    }
    return index;
  }

  // Received rows come by source, then expert; the experts want them by expert, then source.
  void SortReceived(const Execution& exec, Portion& part) const {
    const int local = placement_.experts_per_group();
    std::vector<int32_t> offsets(local + 1, 0);
    for (size_t i = 0; i < part.recv_counts.size(); ++i) {
      offsets[i % local + 1] += part.recv_counts[i];
    }
    for (int e = 0; e < local; ++e) offsets[e + 1] += offsets[e];
    std::vector<int32_t> next(offsets.begin(), offsets.end() - 1);
    std::vector<int32_t> sorted_from(offsets.back());
    std::vector<int32_t> sorted_row;
    for (size_t i = 0; i < part.recv_counts.size(); ++i) {
      for (int32_t c = 0; c < part.recv_counts[i]; ++c) {
        const int32_t row = next[i % local]++;
        sorted_from[row] = static_cast<int32_t>(sorted_row.size());
        sorted_row.push_back(row);
      }
    }
    part.row_offsets = exec.Upload(offsets);
    part.sorted_from = exec.Upload(sorted_from);
    part.sorted_row = exec.Upload(sorted_row);
  }

  void SendRows(const Execution& exec, const Activations& tokens, Portion& part) {
    const auto [begin, end] = part.tokens;
    const bool quantized = tokens.quantized();
    const Activations mine = {.values = tokens.values.Rows(begin, end),
                              .scales = quantized ? tokens.scales.Rows(begin, end) : Tensor()};
    const Activations sent = GatherActivations(exec, mine, part.sent_token);
    part.received = exec.TakeActivations(Total(part.recv_rows), sent.values.cols(), quantized);
    Start(sent.values, part.send_rows, part.received.values, part.recv_rows, part);
    if (quantized) {
      Start(sent.scales, part.send_rows, part.received.scales, part.recv_rows, part);
    }
  }

  void SendBack(const Execution& exec, const Tensor& output, Portion& part) {
    const Tensor by_source = exec.Take(output.dtype(), {output.rows(), output.cols()});
    exec.backend.GatherRows(output, part.sorted_row, by_source);
    part.returned = exec.Take(output.dtype(), {Total(part.send_rows), output.cols()});
    Start(by_source, part.recv_rows, part.returned, part.send_rows, part);
  }

  void Start(const Tensor& in, const std::vector<int64_t>& send_rows, const Tensor& out,
             const std::vector<int64_t>& recv_rows, Portion& part) {
    const int64_t row_bytes = BytesPerRow(in);
    part.exchange = world_.StartAllToAll(in.raw(), RowBytes(send_rows, row_bytes), out.raw(),
                                         RowBytes(recv_rows, row_bytes));
  }

  // Puts the columns of each group's etp ranks side by side.
  //   part.returned  [slots * etp, hidden / etp]: group after group; in a group, rank after rank
  //   returns        [slots, hidden], sorted by expert
  Tensor MergeGroups(const Execution& exec, const Portion& part) const {
    const Tensor& returned = part.returned;
    const int etp = placement_.layout.etp;
    if (etp == 1) return returned;
    const int64_t cols = returned.cols();
    const Tensor merged = exec.Take(returned.dtype(), {returned.rows() / etp, cols * etp});
    for (int group = 0; group < placement_.layout.ep; ++group) {
      const Slice rows = GroupRows(part, group);
      const Tensor shards = returned.Rows(rows.begin * etp, rows.end * etp);
      exec.backend.MergeColumns(shards.Reshape({etp, rows.size(), cols}),
                                merged.Rows(rows.begin, rows.end));
    }
    return merged;
  }

  ExpertPlacement placement_;
  Communicator& world_;
  int64_t overlap_tokens_;
};

}  // namespace

std::unique_ptr<TokenDispatcher> MakeAllToAllDispatcher(const ExpertPlacement& placement,
                                                        Communicator& world,
                                                        int64_t overlap_tokens) {
  return std::make_unique<AllToAllDispatcher>(placement, world, overlap_tokens);
}

}  // namespace intermix
