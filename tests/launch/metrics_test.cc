// /metrics: what Prometheus reads, and that it can be read over HTTP.
#include "launch/metrics.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/metrics_server.h"
#include "prometheus/text_serializer.h"
#include "runtime/rpc/proto_convert.h"
#include "tests/testing/fake_model_runner.h"
#include "tests/testing/model_files.h"
#include "tests/testing/running_engine.h"

namespace intermix {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

TEST(HistogramTest, CountsByUpperBoundsWithTheRestInTheLast) {
  Histogram histogram({0.1, 1.0});
  for (double seconds : {0.05, 0.1, 0.5, 3.0, 4.0}) histogram.Observe(absl::Seconds(seconds));
  EXPECT_EQ(histogram.count(0), 2);
  EXPECT_EQ(histogram.count(1), 1);
  EXPECT_EQ(histogram.count(2), 2);
  EXPECT_DOUBLE_EQ(histogram.sum_seconds(), 7.65);
}

std::string Text(const EngineSnapshot& engine, const RequestTimes& times,
                 const v1::GetClusterResponse& cluster) {
  return prometheus::TextSerializer().Serialize(CollectMetrics(engine, times, cluster));
}

TEST(MetricsTest, TheDashboardAsksForWhatIsThere) {
  v1::GetClusterResponse cluster;
  cluster.add_ranks()->mutable_status()->add_expert_tokens(1);
  const std::string text = Text({}, RequestTimes(), cluster);
  const std::string dashboard = ReadFile(INTERMIX_SOURCE_DIR "/launch/grafana-dashboard.json");
  int names = 0;
  for (size_t begin = dashboard.find("intermix:"); begin != std::string::npos;
       begin = dashboard.find("intermix:", begin + 1)) {
    const size_t end = dashboard.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_:", begin);
    const std::string name = dashboard.substr(begin, end - begin);
    ++names;
    EXPECT_THAT(text, AnyOf(HasSubstr("\n" + name + "{"), HasSubstr("\n" + name + " "))) << name;
  }
  EXPECT_GT(names, 15);
}

TEST(MetricsTest, ShowsEngineTimesAndRanks) {
  RequestTimes times;
  times.first_token.Observe(absl::Milliseconds(7));
  times.first_token.Observe(absl::Hours(1));
  v1::GetClusterResponse cluster;
  for (uint32_t r : {0u, 1u}) {
    v1::Rank* rank = cluster.add_ranks();
    rank->mutable_info()->set_rank(r);
    rank->mutable_info()->set_host("node");
    rank->mutable_status()->set_step(9);
    *rank->mutable_status()->mutable_step_time() = DurationToProto(absl::Milliseconds(1500));
    rank->mutable_status()->add_expert_tokens(4 + r);
  }
  const std::string text = Text({.running = 3,
                                 .free_blocks = 30,
                                 .total_blocks = 40,
                                 .generated_tokens = 77,
                                 .stopped = 5,
                                 .prefix_hit_tokens = 16},
                                times, cluster);
  for (const char* line :
       {"# TYPE intermix:num_requests_running gauge\nintermix:num_requests_running 3\n",
        "intermix:kv_cache_usage_perc 0.25\n", "intermix:generation_tokens_total 77\n",
        "intermix:prefix_cache_hits_total 16\n",
        "intermix:request_success_total{finished_reason=\"stop\"} 5\n",
        "intermix:time_to_first_token_seconds_count 2\n",
        "intermix:time_to_first_token_seconds_bucket{le=\"0.005\"} 0\n",
        "intermix:time_to_first_token_seconds_bucket{le=\"0.01\"} 1\n",
        "intermix:time_to_first_token_seconds_bucket{le=\"+Inf\"} 2\n",
        "intermix:rank_step_seconds_total{rank=\"1\",host=\"node\"} 1.5\n",
        "intermix:expert_tokens_total{rank=\"1\",host=\"node\",expert=\"0\"} 5\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

// The answer to GET /metrics on a port of this machine.
std::string Get(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval timeout = {.tv_sec = 60};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = read(fd, buffer, sizeof(buffer))) > 0;) answer.append(buffer, n);
  close(fd);
  return answer;
}

TEST(MetricsServerTest, AnswersOverHttpWithWhatTheEngineDid) {
  testing::FakeModelRunner runner({});
  testing::RunningEngine engine({}, runner);
  engine.Start();
  const ClusterTable cluster(1);
  const auto server = MetricsServer::Start("0", *engine, cluster);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto stream = engine->Submit({.prompt = {1, 2, 3}, .sampling = {.max_tokens = 5}});
  testing::Collect(**stream);
  const std::string answer = Get((*server)->port());
  for (const char* line :
       {" 200 OK", "intermix:prompt_tokens_total 3\n", "intermix:generation_tokens_total 5\n",
        "intermix:request_success_total{finished_reason=\"length\"} 1\n",
        "intermix:request_queue_time_seconds_count 1\n",
        "intermix:time_to_first_token_seconds_count 1\n",
        "intermix:inter_token_latency_seconds_count 4\n",
        "intermix:e2e_request_latency_seconds_count 1\n"}) {
    EXPECT_THAT(answer, HasSubstr(line));
  }
}

TEST(MetricsServerTest, RefusesAnAddressThatIsTaken) {
  testing::FakeModelRunner runner({});
  Engine engine({}, runner);
  const ClusterTable cluster(1);
  const auto first = MetricsServer::Start("127.0.0.1:0", engine, cluster);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = MetricsServer::Start(std::to_string((*first)->port()), engine, cluster);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("--metrics"));
}

}  // namespace
}  // namespace intermix
