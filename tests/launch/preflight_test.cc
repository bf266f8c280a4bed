// Preflight: what is said of a job by what its ranks found, without any host being like that.
#include "launch/preflight.h"

#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "launch/probe_host.h"

namespace intermix {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kGB = 1'000'000'000;

std::vector<int> Cpus(int begin, int end) {
  std::vector<int> cpus(end - begin);
  std::iota(cpus.begin(), cpus.end(), begin);
  return cpus;
}

// Ranks of one host with eight CPUs, of which each has its part; nothing is wrong with them.
std::vector<RankFacts> GoodRanks(int count) {
  std::vector<RankFacts> ranks;
  for (int i = 0; i < count; ++i) {
    ranks.push_back({.host = "a",
                     .build = "0.1.0 build 12ab",
                     .options = "--tp 2",
                     .fingerprint = "0011",
                     .device = "cpu",
                     .weight_bytes = kGB,
                     .kv_bytes = kGB / 10,
                     .free_bytes = 10 * kGB,
                     .shm_free_bytes = kGB,
                     .cpus = Cpus(8 * i / count, 8 * (i + 1) / count),
                     .host_cpus = 8,
                     .host_cores = 8});
  }
  return ranks;
}

void ExpectWarnings(const std::vector<RankFacts>& ranks, const auto& warnings) {
  EXPECT_THAT(Judge(ranks).failures, IsEmpty());
  EXPECT_THAT(Judge(ranks).warnings, warnings);
}

TEST(PreflightTest, GoodRanksMayRun) {
  for (int count : {1, 2, 4, 8}) {
    ExpectWarnings(GoodRanks(count), IsEmpty());
    EXPECT_TRUE(Judge(GoodRanks(count)).status().ok());
  }
}

TEST(PreflightTest, EverythingThatIsWrongIsSaidAtOnce) {
  std::vector<RankFacts> ranks = GoodRanks(4);
  for (RankFacts& rank : ranks) rank.problems = {"--tp 3 does not divide the 4 ranks"};
  ranks[1].problems.emplace_back("cannot read /m/config.json: Permission denied");
  ranks[3].problems.emplace_back("cannot read /m/config.json: Permission denied");
  ranks[2].build = "0.2.0 build 34cd";
  ranks[3].fingerprint = "0022";
  ranks[1].fingerprint = "";  // it could not read it, which it says
  const Verdict verdict = Judge(ranks);
  EXPECT_THAT(
      verdict.failures,
      ElementsAre("--tp 3 does not divide the 4 ranks",
                  "ranks 1, 3: cannot read /m/config.json: Permission denied",
                  "the ranks run different builds of Intermix: 0.1.0 build 12ab (ranks 0, 1, 3); "
                  "0.2.0 build 34cd (rank 2); install the same one on every host",
                  "the ranks read different checkpoints: 0011 (ranks 0, 2); 0022 (rank 3); give "
                  "every host the same model directory"));
  EXPECT_THAT(std::string(verdict.status().message()),
              AllOf(HasSubstr("the job cannot start, for 4 reasons:\n  --tp 3 does not"),
                    HasSubstr("\n  the ranks read different")));
}

TEST(PreflightTest, OneReasonIsOneSentence) {
  std::vector<RankFacts> ranks = GoodRanks(2);
  ranks[0].problems = {"port 1 is taken"};
  EXPECT_EQ(Judge(ranks).status().message(), "rank 0: port 1 is taken");
}

TEST(PreflightTest, HostsAreNamedWhereThereAreSeveral) {
  std::vector<RankFacts> ranks = GoodRanks(4);
  ranks[2].host = ranks[3].host = "b";
  ranks[2].problems = ranks[3].problems = {"no model"};
  ranks[3].options = "--tp 4";
  EXPECT_THAT(Judge(ranks).failures,
              ElementsAre("ranks 2, 3 on b: no model",
                          "the ranks were started with different options: --tp 2 (ranks 0 to 2); "
                          "--tp 4 (rank 3 on b); start them all alike"));
}

TEST(PreflightTest, RanksOfAHostShareItsMemory) {
  std::vector<RankFacts> ranks = GoodRanks(2);
  for (RankFacts& rank : ranks) rank.free_bytes = 2 * kGB;
  const std::string sentence =
      "host a has 2.0 GB of memory free, but its 2 ranks need 2.2 GB: 2.0 GB for weights and 200.0 "
      "MB for the KV cache; use more hosts, a smaller --kv-memory or fewer bits per weight";
  EXPECT_THAT(Judge(ranks).failures, ElementsAre(sentence));
  for (auto unknown : {&RankFacts::weight_bytes, &RankFacts::free_bytes}) {
    std::vector<RankFacts> silent = ranks;
    silent[1].*unknown = RankFacts().*unknown;
    EXPECT_THAT(Judge(silent).failures, IsEmpty());
  }
  ranks[1].host = "b";
  EXPECT_THAT(Judge(ranks).failures, IsEmpty());
  ranks[1].host = "a";
  for (RankFacts& rank : ranks) rank.device = "cuda";
  EXPECT_THAT(Judge(ranks).failures, IsEmpty()) << "each has its GPU";
  ranks[1].free_bytes = kGB;
  EXPECT_THAT(Judge(ranks).failures,
              ElementsAre(HasSubstr("the GPU of rank 1 has 1.0 GB of memory free, but its rank")));
}

TEST(PreflightTest, ASmallCacheIsOnlyAWarning) {
  std::vector<RankFacts> ranks = GoodRanks(2);
  for (RankFacts& rank : ranks) rank.context_bytes = 2 * kGB;
  ExpectWarnings(ranks, IsEmpty());
  for (RankFacts& rank : ranks) rank.context_bytes = 5 * kGB;
  ExpectWarnings(ranks, ElementsAre(HasSubstr("10.0 GB for the KV cache of one longest sequence")));
}

TEST(PreflightTest, SharedMemoryIsForRanksThatHaveNeighbours) {
  std::vector<RankFacts> ranks = GoodRanks(2);
  for (RankFacts& rank : ranks) rank.shm_free_bytes = 1'000'000;
  EXPECT_THAT(Judge(ranks).failures, ElementsAre(AllOf(HasSubstr("/dev/shm of host a has 1.0 MB"),
                                                       HasSubstr("--shm-size"))));
  ranks[1].host = "b";
  EXPECT_THAT(Judge(ranks).failures, IsEmpty());
  ranks[1].host = "a";
  for (RankFacts& rank : ranks) rank.shm_free_bytes = -1;
  EXPECT_THAT(Judge(ranks).failures, IsEmpty());
  for (RankFacts& rank : ranks) {
    rank.device = "cuda";
    rank.shm_free_bytes = 50'000'000;
  }
  ExpectWarnings(ranks, ElementsAre(HasSubstr("/dev/shm of host a has 50.0 MB")));
}

TEST(PreflightTest, CpusThatMpirunLeavesIdleAreNamedWithTheFlag) {
  std::vector<RankFacts> ranks = GoodRanks(2);  // mpirun -n 2 binds each rank to a core
  ranks[0].cpus = {0};
  ranks[1].cpus = {1};
  ExpectWarnings(ranks, ElementsAre("the 2 ranks of host a are bound to 2 of its 8 CPUs and the "
                                    "others stay idle; mpirun --map-by slot:PE=4 --bind-to core "
                                    "gives each its part"));
  for (RankFacts& rank : ranks) rank.threads = 1;
  ExpectWarnings(ranks, IsEmpty());  // as asked for
  for (RankFacts& rank : ranks) {
    rank.threads = 0;
    rank.host_cpus = rank.host_cores = 2;
  }
  ExpectWarnings(ranks, IsEmpty());  // there are no more
}

TEST(PreflightTest, UnboundRanksShareFairly) {
  std::vector<RankFacts> ranks = GoodRanks(2);
  for (RankFacts& rank : ranks) rank.cpus = Cpus(0, 8);
  EXPECT_EQ(FairThreads(ranks, 0), 4);
  ExpectWarnings(ranks, IsEmpty());
  for (RankFacts& rank : ranks) rank.threads = 4;
  ExpectWarnings(ranks, IsEmpty());
  for (RankFacts& rank : ranks) rank.pin_threads = true;
  ExpectWarnings(ranks, ElementsAre(AllOf(HasSubstr("--pin-threads"),
                                          HasSubstr("mpirun --map-by slot:PE=4 --bind-to core"))));
  for (RankFacts& rank : ranks) {
    rank.pin_threads = false;
    rank.numa_nodes = 2;
  }
  ExpectWarnings(ranks, ElementsAre(AllOf(HasSubstr("not bound"), HasSubstr("2 NUMA nodes"))));
  for (RankFacts& rank : ranks) rank.threads = 8;
  ExpectWarnings(ranks, ElementsAre(HasSubstr("start 16 threads on 8 CPUs; use --threads 4")));
}

TEST(PreflightTest, RanksBoundToTheirNumaNodeMayShareIt) {
  std::vector<RankFacts> ranks = GoodRanks(4);
  for (int i = 0; i < 4; ++i) {
    ranks[i].cpus = i < 2 ? Cpus(0, 4) : Cpus(4, 8);
    ranks[i].numa_nodes = 2;
  }
  for (int i = 0; i < 4; ++i) EXPECT_EQ(FairThreads(ranks, i), 2) << i;
  ExpectWarnings(ranks, IsEmpty());
}

TEST(PreflightTest, MoreRanksThanCpusTakeTurns) {
  std::vector<RankFacts> ranks = GoodRanks(4);
  for (RankFacts& rank : ranks) {
    rank.cpus = {0, 1};
    rank.host_cpus = rank.host_cores = 2;
  }
  EXPECT_EQ(FairThreads(ranks, 3), 1);
  ExpectWarnings(ranks, ElementsAre("the 4 ranks of host a take turns on 2 CPUs; start at most 2 "
                                    "there (mpirun -n 2, or more hosts)"));
  for (RankFacts& rank : ranks) rank.device = "cuda";
  ExpectWarnings(ranks, IsEmpty());
}

TEST(PreflightTest, OneRankMayDoAsItLikes) {
  std::vector<RankFacts> ranks = GoodRanks(1);
  ranks[0].cpus = {0};
  ranks[0].threads = 4;
  ExpectWarnings(ranks, IsEmpty());
}

TEST(RankFactsTest, SurviveTheirWayToOtherRanks) {
  RankFacts facts = GoodRanks(1)[0];
  facts.problems = {"\"a\"\n", "b"};
  facts.pin_threads = true;
  EXPECT_EQ(RankFacts::FromJson(facts.ToJson()), facts);
  EXPECT_EQ(RankFacts::FromJson("{"), RankFacts());
  EXPECT_EQ(RankFacts::FromJson("[]"), RankFacts());
  EXPECT_EQ(RankFacts::FromJson(R"({"host": 1, "threads": "x", "device": "cpu"})"),
            (RankFacts{.device = "cpu"}));
}

TEST(ProbeHostTest, SeesThisHost) {
  RankFacts facts;
  ProbeHost(facts);
  EXPECT_NE(facts.host, "");
  EXPECT_FALSE(facts.cpus.empty());
  EXPECT_GE(facts.host_cpus, facts.host_cores);
  EXPECT_GE(facts.numa_nodes, 1);
  EXPECT_GE(facts.shm_free_bytes, 0);
}

}  // namespace
}  // namespace intermix
