#include "launch/metrics.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

using Labels = std::vector<ClientMetric::Label>;

class Families {
 public:
  void Gauge(const char* name, const char* help, double value, const Labels& labels = {}) {
    Add(name, help, MetricType::Gauge, labels).gauge.value = value;
  }
  void Counter(const char* name, const char* help, double value, const Labels& labels = {}) {
    Add(name, help, MetricType::Counter, labels).counter.value = value;
  }
  void Times(const char* name, const char* help, const Histogram& histogram) {
    ClientMetric::Histogram& out = Add(name, help, MetricType::Histogram, {}).histogram;
    uint64_t count = 0;
    for (size_t i = 0; i <= histogram.bounds().size(); ++i) {
      count += static_cast<uint64_t>(histogram.count(i));
      const double bound = i < histogram.bounds().size() ? histogram.bounds()[i]
                                                         : std::numeric_limits<double>::infinity();
      out.bucket.push_back({.cumulative_count = count, .upper_bound = bound});
    }
    out.sample_count = count;
    out.sample_sum = histogram.sum_seconds();
  }

  std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  // Metrics of one family come one after the other.
  ClientMetric& Add(const char* name, const char* help, MetricType type, const Labels& labels) {
    const std::string full = absl::StrCat("intermix:", name);
    if (families_.empty() || families_.back().name != full) {
      families_.push_back({.name = full, .help = help, .type = type});
    }
    ClientMetric& metric = families_.back().metric.emplace_back();
    metric.label = labels;
    return metric;
  }

  std::vector<MetricFamily> families_;
};

void AddEngine(const EngineSnapshot& engine, Families& families) {
  families.Gauge("num_requests_running", "Sequences that are stepped", engine.running);
  families.Gauge("num_requests_waiting", "Sequences in the queue", engine.waiting);
  const double used = engine.total_blocks - engine.free_blocks;
  families.Gauge("kv_cache_usage_perc", "KV blocks in use, as a part of 1",
                 used / std::max(1, engine.total_blocks));
  families.Counter("prefix_cache_queries_total", "Tokens looked up in the prefix cache",
                   static_cast<double>(engine.prefix_lookup_tokens));
  families.Counter("prefix_cache_hits_total", "Of these, tokens found",
                   static_cast<double>(engine.prefix_hit_tokens));
  families.Counter("num_preemptions_total", "Sequences put back for want of room",
                   static_cast<double>(engine.preemptions));
  families.Counter("prompt_tokens_total", "Prompt tokens of requests that got a first token",
                   static_cast<double>(engine.prompt_tokens));
  families.Counter("generation_tokens_total", "Tokens generated",
                   static_cast<double>(engine.generated_tokens));
  families.Counter("engine_steps_total", "Steps", static_cast<double>(engine.step));
  const char* ended = "Answers that ended, by reason";
  for (const auto& [reason, count] :
       {std::pair("stop", engine.stopped), std::pair("length", engine.reached_length),
        std::pair("error", engine.failed)}) {
    families.Counter("request_success_total", ended, static_cast<double>(count),
                     {{"finished_reason", reason}});
  }
}

void AddRanks(const v1::GetClusterResponse& cluster, Families& families) {
  const auto label = [](const v1::Rank& rank) {
    return Labels{{"rank", absl::StrCat(rank.info().rank())}, {"host", rank.info().host()}};
  };
  for (const v1::Rank& rank : cluster.ranks()) {
    families.Counter("rank_steps_total", "Steps of a rank",
                     static_cast<double>(rank.status().step()), label(rank));
  }
  for (const v1::Rank& rank : cluster.ranks()) {
    const absl::Duration time = DurationFromProto(rank.status().step_time());
    families.Counter("rank_step_seconds_total", "Time that a rank spent in steps",
                     absl::ToDoubleSeconds(time), label(rank));
  }
  for (const v1::Rank& rank : cluster.ranks()) {
    families.Gauge("rank_resident_bytes", "Memory of a rank's process",
                   static_cast<double>(rank.status().resident_bytes()), label(rank));
  }
  for (const v1::Rank& rank : cluster.ranks()) {
    for (int expert = 0; expert < rank.status().expert_tokens_size(); ++expert) {
      Labels labels = label(rank);
      labels.push_back({"expert", absl::StrCat(expert)});
      families.Counter("expert_tokens_total", "Tokens that a rank's experts got, over layers",
                       static_cast<double>(rank.status().expert_tokens(expert)), labels);
    }
  }
}

}  // namespace

std::vector<MetricFamily> CollectMetrics(const EngineSnapshot& engine, const RequestTimes& times,
                                         const v1::GetClusterResponse& cluster) {
  Families families;
  AddEngine(engine, families);
  families.Times("request_queue_time_seconds", "From submission to the first step", times.queue);
  families.Times("time_to_first_token_seconds", "From submission to the first token",
                 times.first_token);
  families.Times("inter_token_latency_seconds", "From one token to the next", times.between_tokens);
  families.Times("e2e_request_latency_seconds", "From submission to the end", times.whole);
  AddRanks(cluster, families);
  return families.Take();
}

}  // namespace intermix
