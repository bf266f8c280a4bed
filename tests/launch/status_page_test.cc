// The status page, letter by letter.
#include "launch/status_page.h"

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/rpc/proto_convert.h"

namespace intermix {
namespace {

v1::GetServerInfoResponse Server() {
  v1::GetServerInfoResponse server;
  server.set_version("9.9");
  server.set_serving(true);
  *server.mutable_uptime() = DurationToProto(absl::Seconds(75));
  v1::ModelInfo* model = server.mutable_model();
  model->set_name("tiny");
  model->set_description("MixtralForCausalLM, integer W4");
  model->set_max_context(2048);
  *model->mutable_layout() = LayoutToProto({.world = 2, .tp = 2, .ep = 1, .dp = 1, .etp = 2});
  *server.mutable_engine() = EngineToProto({.step = 12,
                                            .running = 1,
                                            .waiting = 2,
                                            .free_blocks = 3,
                                            .total_blocks = 4,
                                            .block_size = 16,
                                            .prompt_tokens = 5,
                                            .generated_tokens = 6,
                                            .preemptions = 9,
                                            .prefix_lookup_tokens = 11,
                                            .prefix_hit_tokens = 10},
                                           {.max_running = 7, .max_queue = 8});
  return server;
}

v1::GetClusterResponse Cluster() {
  v1::GetClusterResponse cluster;
  cluster.set_world(3);
  for (uint32_t r : {0u, 1u}) {
    v1::Rank* rank = cluster.add_ranks();
    rank->mutable_info()->set_rank(r);
    rank->mutable_info()->set_host(r == 0 ? "a" : "node-b");
    rank->mutable_info()->set_pid(100 + r);
    rank->mutable_info()->set_tp_rank(r);
    rank->mutable_info()->set_etp_rank(r);
    rank->mutable_status()->set_resident_bytes(uint64_t{3} << 29);
    *rank->mutable_heartbeat_age() = DurationToProto(absl::Milliseconds(250 + 1000 * r));
  }
  v1::Rank* loaded = cluster.mutable_ranks(1);
  loaded->mutable_info()->set_device("cpu");
  loaded->mutable_info()->set_weight_bytes(1023);
  loaded->mutable_info()->set_kv_bytes(20 << 20);
  loaded->mutable_status()->set_phase(v1::RANK_PHASE_STEPPING);
  loaded->mutable_status()->set_step(12);
  loaded->mutable_status()->set_tokens(40);
  loaded->mutable_status()->add_expert_tokens(30);
  loaded->mutable_status()->add_expert_tokens(50);
  cluster.mutable_ranks(0)->mutable_status()->set_phase(v1::RANK_PHASE_LOADING);
  return cluster;
}

TEST(StatusPageTest, ShowsServerAndRanks) {
  EXPECT_EQ(StatusPage(Server(), Cluster()),
            "intermix 9.9, serving, up 75 s\n"
            "model    tiny: MixtralForCausalLM, integer W4, context 2048\n"
            "layout   2 ranks: dp 1 x tp 2, ep 1 x etp 2\n"
            "engine   step 12, running 1 of 7, waiting 2 of 8, KV cache free for 48 of 64 tokens\n"
            "tokens   5 of prompts, 6 generated\n"
            "cache    10 of 11 tokens found in the prefix cache, 9 preemptions\n"
            "\n"
            "rank  host    pid  device  dp/tp  ep/etp  phase     step  "
            "tokens  expert tokens  weights  KV cache  memory   heartbeat\n"
            "0     a       100  -       0/0    0/0     loading   0     "
            "0       0              0 B      0 B       1.5 GiB  0.2 s ago\n"
            "1     node-b  101  cpu     0/1    0/1     stepping  12    "
            "40      80             1023 B   20 MiB    1.5 GiB  1.2 s ago\n"
            "1 more have not registered yet\n");
}

TEST(StatusPageTest, SaysLittleOfAServerThatLoads) {
  v1::GetServerInfoResponse server;
  server.set_version("9.9");
  const std::string page = StatusPage(server, v1::GetClusterResponse());
  EXPECT_EQ(page.substr(0, page.find('\n')), "intermix 9.9, not serving, up 0 s");
  EXPECT_EQ(page.find("model"), std::string::npos);
}

TEST(StatusPageTest, WatchesRatesAndLoads) {
  v1::Stats stats;
  stats.set_serving(true);
  *stats.mutable_engine() = Server().engine();
  *stats.mutable_cluster() = Cluster();
  stats.set_steps_per_second(2.5);
  stats.set_generated_tokens_per_second(40);
  const std::string page = WatchPage(Server(), stats);
  const std::string status = StatusPage(Server(), Cluster());
  EXPECT_EQ(page.substr(0, status.size()), status);
  EXPECT_EQ(page.substr(status.size()),
            "\n"
            "rate     2.5 steps/s, 0.0 prompt tokens/s, 40.0 generated/s\n"
            "KV       [###.......]\n"
            "experts    0 [######....] 37.5%\n"
            "           1 [##########] 62.5%\n");
}

TEST(StatusPageTest, JsonIsJson) {
  const nlohmann::json json = nlohmann::json::parse(StatusJson(Server(), Cluster()));
  EXPECT_EQ(json["server"]["model"]["layout"]["etp"], 2);
  EXPECT_EQ(json["cluster"]["ranks"][1]["info"]["pid"], 101);
  EXPECT_EQ(json["cluster"]["ranks"][0]["info"]["rank"], 0) << "zeros are printed too";
}

}  // namespace
}  // namespace intermix
