#include "launch/status_page.h"

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/protobuf/util/json_util.h"
#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

std::string Bytes(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit;
  }
  return absl::StrFormat("%.*f %s", value < 10.0 && unit > 0 ? 1 : 0, value, kUnits[unit]);
}

uint64_t CacheTokens(const v1::EngineInfo& engine, uint64_t blocks) {
  return blocks * engine.kv_block_tokens();
}

using Row = std::vector<std::string>;

Row RankRow(const v1::Rank& rank) {
  const v1::RankInfo& info = rank.info();
  const v1::RankStatus& status = rank.status();
  uint64_t expert_tokens = 0;
  for (uint64_t tokens : status.expert_tokens()) expert_tokens += tokens;
  const double age = absl::ToDoubleSeconds(DurationFromProto(rank.heartbeat_age()));
  return {absl::StrCat(info.rank()),
          info.host(),
          absl::StrCat(info.pid()),
          info.device().empty() ? "-" : info.device(),
          absl::StrCat(info.dp_rank(), "/", info.tp_rank()),
          absl::StrCat(info.ep_rank(), "/", info.etp_rank()),
          PhaseText(status.phase()),
          absl::StrCat(status.step()),
          absl::StrCat(status.tokens()),
          absl::StrCat(expert_tokens),
          Bytes(info.weight_bytes()),
          Bytes(info.kv_bytes()),
          Bytes(status.resident_bytes()),
          rank.state() == v1::RANK_STATE_GONE ? "gone" : absl::StrFormat("%.1f s ago", age)};
}

// Columns as wide as their widest cell, two spaces apart.
std::string Table(const std::vector<Row>& rows) {
  std::vector<size_t> widths(rows[0].size(), 0);
  for (const Row& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      line += row[c] + std::string(widths[c] - row[c].size() + 2, ' ');
    }
    absl::StripTrailingAsciiWhitespace(&line);
    text += line + "\n";
  }
  return text;
}

std::string ServerLines(const v1::GetServerInfoResponse& server) {
  const absl::Duration uptime = DurationFromProto(server.uptime());
  std::string text =
      absl::StrFormat("intermix %s, %s, up %.0f s\n", server.version(),
                      server.serving() ? "serving" : "not serving", absl::ToDoubleSeconds(uptime));
  if (!server.has_model()) return text;
  const v1::ModelInfo& model = server.model();
  const v1::EngineInfo& engine = server.engine();
  absl::StrAppend(&text, "model    ", model.name(), ": ", model.description(), ", context ",
                  model.max_context(), "\n");
  absl::StrAppend(&text, "layout   ", LayoutText(model.layout()), "\n");
  absl::StrAppend(&text, "engine   step ", engine.step(), ", running ", engine.running(), " of ",
                  engine.max_running(), ", waiting ", engine.waiting(), " of ", engine.max_queue(),
                  ", KV cache free for ", CacheTokens(engine, engine.free_kv_blocks()), " of ",
                  CacheTokens(engine, engine.total_kv_blocks()), " tokens\n");
  absl::StrAppend(&text, "tokens   ", engine.prompt_tokens(), " of prompts, ",
                  engine.generated_tokens(), " generated\n");
  absl::StrAppend(&text, "cache    ", engine.prefix_hit_tokens(), " of ",
                  engine.prefix_lookup_tokens(), " tokens found in the prefix cache, ",
                  engine.preemptions(), " preemptions\n");
  return text;
}

// "[#####.....]": `part` of `whole` as a bar of ten.
std::string Bar(double part, double whole) {
  constexpr int kWidth = 10;
  const int filled = whole > 0.0 ? static_cast<int>(part / whole * kWidth + 0.5) : 0;
  return absl::StrCat("[", std::string(filled, '#'), std::string(kWidth - filled, '.'), "]");
}

// Tokens of each expert. Ranks that share an expert count the same tokens; others count none.
std::vector<uint64_t> ExpertTokens(const v1::GetClusterResponse& cluster) {
  std::vector<uint64_t> tokens;
  for (const v1::Rank& rank : cluster.ranks()) {
    const auto& counts = rank.status().expert_tokens();
    tokens.resize(std::max<size_t>(tokens.size(), counts.size()), 0);
    for (int i = 0; i < counts.size(); ++i) tokens[i] = std::max(tokens[i], counts[i]);
  }
  return tokens;
}

std::string ExpertLines(const std::vector<uint64_t>& tokens) {
  uint64_t total = 0;
  uint64_t most = 0;
  for (uint64_t count : tokens) {
    total += count;
    most = std::max(most, count);
  }
  std::string text;
  for (size_t i = 0; i < tokens.size() && total > 0; ++i) {
    const double share = 100.0 * static_cast<double>(tokens[i]) / static_cast<double>(total);
    absl::StrAppend(
        &text, i == 0 ? "experts  " : "         ",
        absl::StrFormat("%3d %s %4.1f%%\n", i,
                        Bar(static_cast<double>(tokens[i]), static_cast<double>(most)), share));
  }
  return text;
}

std::string Json(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  (void)google::protobuf::util::MessageToJsonString(message, &json, options);
  return json;
}

}  // namespace

std::string LayoutText(const v1::Layout& layout) {
  return absl::StrCat(layout.world(), layout.world() == 1 ? " rank" : " ranks", ": dp ",
                      layout.dp(), " x tp ", layout.tp(), ", ep ", layout.ep(), " x etp ",
                      layout.etp());
}

std::string StatusPage(const v1::GetServerInfoResponse& server,
                       const v1::GetClusterResponse& cluster) {
  std::vector<Row> rows = {{"rank", "host", "pid", "device", "dp/tp", "ep/etp", "phase", "step",
                            "tokens", "expert tokens", "weights", "KV cache", "memory",
                            "heartbeat"}};
  for (const v1::Rank& rank : cluster.ranks()) rows.push_back(RankRow(rank));
  std::string text = ServerLines(server) + "\n" + Table(rows);
  const int missing = static_cast<int>(cluster.world()) - cluster.ranks_size();
  if (missing > 0) absl::StrAppend(&text, missing, " more have not registered yet\n");
  return text;
}

std::string WatchPage(v1::GetServerInfoResponse server, const v1::Stats& stats) {
  server.set_serving(stats.serving());
  if (stats.has_engine()) *server.mutable_engine() = stats.engine();
  std::string text = StatusPage(server, stats.cluster());
  absl::StrAppend(&text, "\n",
                  absl::StrFormat("rate     %.1f steps/s, %.1f prompt tokens/s, %.1f generated/s\n",
                                  stats.steps_per_second(), stats.prompt_tokens_per_second(),
                                  stats.generated_tokens_per_second()));
  const double total = stats.engine().total_kv_blocks();
  absl::StrAppend(&text, "KV       ", Bar(total - stats.engine().free_kv_blocks(), total), "\n");
  return text + ExpertLines(ExpertTokens(stats.cluster()));
}

std::string StatusJson(const v1::GetServerInfoResponse& server,
                       const v1::GetClusterResponse& cluster) {
  return absl::StrCat("{\"server\":", Json(server), ",\"cluster\":", Json(cluster), "}\n");
}

}  // namespace intermix
