// `mpirun -n 2 intermix serve` as its users meet it: real ranks, real gRPC, the model that comes
// with the tests.
#include <csignal>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/run_program.h"
#include "tests/testing/served_model.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

const std::string kIntermix = IntermixBinary();
const std::string kModel = TestData() + "/tiny-mixtral";

v1::GenerateRequest Request(const std::string& text, uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

// A stream that has brought its first delta.
class OpenStream {
 public:
  OpenStream(v1::Inference::Stub& stub, uint32_t max_tokens) {
    context_.set_deadline(Soon());
    reader_ = stub.Generate(&context_, Request("And it came to pass", max_tokens));
    EXPECT_TRUE(reader_->Read(&response_));
  }
  void Cancel() { context_.TryCancel(); }
  grpc::Status Finish() {
    while (reader_->Read(&response_)) {
    }
    return reader_->Finish();
  }

 private:
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
};

TEST(ServeTest, AnswersAsGenerateDoesOnOneRank) {
  Served served;
  grpc::ClientContext context;
  context.set_deadline(Soon());
  const auto reader = served.inference().Generate(&context, Request("And it came to pass", 40));
  std::string text;
  v1::GenerateResponse response;
  int completions = 0;
  while (reader->Read(&response)) {
    text += response.delta().text();
    completions += response.has_completion() ? 1 : 0;
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(completions, 1);

  const std::vector<std::string> question = {"--prompt", "And it came to pass", "--max-tokens",
                                             "40", "--ignore-eos"};
  std::vector<std::string> generate = {kIntermix, "generate", "--model", kModel};
  generate.insert(generate.end(), question.begin(), question.end());
  const ProgramResult alone = RunProgram({.arguments = generate});
  EXPECT_EQ(alone.out, text + "\n") << alone.err;

  std::vector<std::string> client = {"generate"};
  client.insert(client.end(), question.begin(), question.end());
  const ProgramResult asked = served.Client(client);
  EXPECT_EQ(asked.exit_code, 0) << asked.err;
  EXPECT_EQ(asked.out, text + "\n");
  EXPECT_THAT(asked.err, HasSubstr("40 generated"));
}

TEST(ServeTest, ClientCommandsTellHowItIs) {
  Served served;
  const ProgramResult health = served.Client({"health"});
  EXPECT_EQ(health.exit_code, 0) << health.err;
  EXPECT_EQ(health.out, "SERVING\n");
  const ProgramResult status = served.Client({"status"});
  EXPECT_EQ(status.exit_code, 0) << status.err;
  EXPECT_THAT(status.out, HasSubstr("2 ranks: dp 1 x tp 2, ep 1 x etp 2"));
  EXPECT_THAT(status.out, HasSubstr("MixtralForCausalLM"));
  const ProgramResult bad = served.Client({"generate", "--prompt", "x", "--top-p", "2"});
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_EQ(bad.err, "intermix: INVALID_ARGUMENT: top_p is 2; it must be in (0, 1]\n");
  EXPECT_EQ(served.Client({"generate"}).exit_code, 2) << "no prompt";
}

TEST(ServeTest, AnOperatorSteersIt) {
  Served served = Served::Endless({"--metrics", "0"});
  const auto code = [&](std::vector<std::string> arguments) {
    return served.Client(std::move(arguments)).exit_code;
  };
  EXPECT_EQ(served.Client({"drain"}).out, "");
  EXPECT_EQ(code({"health"}), 1);
  const ProgramResult refused = served.Client({"generate", "--prompt", "x"});
  EXPECT_THAT(refused.err, HasSubstr("UNAVAILABLE: the server is draining"));
  EXPECT_EQ(code({"resume"}), 0);
  EXPECT_EQ(code({"health"}), 0);
  EXPECT_EQ(code({"flush-prefix-cache"}), 0);
  EXPECT_EQ(code({"log-level", "debug"}), 0);
  EXPECT_EQ(code({"log-level", "loud"}), 1);
  EXPECT_EQ(code({"abort"}), 2);
  OpenStream stream(served.inference(), kEndless);
  EXPECT_EQ(served.Client({"abort", "--all"}).out, "aborted: 1\n");
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(code({"shutdown", "--grace", "200"}), 0);
  EXPECT_EQ(served.job().Wait(), 0) << served.job().err();
}

TEST(ServeTest, EveryRankReports) {
  Served served({"--ep", "2"});
  OpenStream(served.inference(), 20).Finish();
  v1::GetClusterResponse cluster;
  const auto all_have_stepped = [&cluster] {  // and told so: what is known of them may be older
    for (const v1::Rank& rank : cluster.ranks()) {
      if (rank.info().weight_bytes() == 0 || rank.status().tokens() < 20) return false;
      if (rank.status().phase() != v1::RANK_PHASE_IDLE) return false;
    }
    return cluster.ranks_size() == 2;
  };
  for (int i = 0; i < 24000 && !all_have_stepped(); ++i) {
    cluster = served.Cluster();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ASSERT_TRUE(all_have_stepped()) << cluster.DebugString();
  for (int r = 0; r < 2; ++r) {
    const v1::Rank& rank = cluster.ranks(r);
    EXPECT_EQ(rank.info().rank(), r);
    EXPECT_EQ(rank.info().tp_rank(), r);
    EXPECT_EQ(rank.info().ep_rank(), r);
    EXPECT_GT(rank.status().resident_bytes(), 0);
    EXPECT_THAT(rank.status().expert_tokens(), SizeIs(8));
  }
  EXPECT_NE(cluster.ranks(0).info().pid(), cluster.ranks(1).info().pid());
}

TEST(ServeTest, CancellingFreesTheSequence) {
  Served served = Served::Endless();
  OpenStream stream(served.inference(), kEndless);
  stream.Cancel();
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(served.Running(0));
  const v1::EngineInfo engine = served.Engine();
  EXPECT_LT(engine.generated_tokens(), kEndless);
  EXPECT_EQ(engine.free_kv_blocks(), engine.total_kv_blocks());
}

TEST(ServeTest, AFullQueueIsRefused) {
  Served served = Served::Endless({"--max-running", "1", "--max-queue", "1"});
  OpenStream running(served.inference(), kEndless);
  grpc::ClientContext waiting_context;
  waiting_context.set_deadline(Soon());
  const auto waiting = served.inference().Generate(&waiting_context, Request("a", 1));
  for (int i = 0; i < 24000 && served.Engine().waiting() == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  grpc::ClientContext refused_context;
  refused_context.set_deadline(Soon());
  EXPECT_EQ(served.inference().Generate(&refused_context, Request("b", 1))->Finish().error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  waiting_context.TryCancel();
  running.Cancel();
}

// SIGINT or SIGTERM to either rank.
class ServeSignalTest : public ::testing::TestWithParam<std::pair<int, int>> {};

TEST_P(ServeSignalTest, StopsTheJobCleanly) {
  const auto [rank, signal] = GetParam();
  Served served = Served::Endless();
  const v1::GetClusterResponse cluster = served.Cluster();
  ASSERT_THAT(cluster.ranks(), SizeIs(2));
  OpenStream stream(served.inference(), kEndless);
  kill(static_cast<pid_t>(cluster.ranks(rank).info().pid()), signal);
  const grpc::Status end = stream.Finish();
  EXPECT_EQ(end.error_code(), grpc::StatusCode::UNAVAILABLE) << end.error_message();
  EXPECT_EQ(served.job().Wait(), 0) << served.job().err();
  EXPECT_TRUE(served.Gone());
}

INSTANTIATE_TEST_SUITE_P(All, ServeSignalTest,
                         ::testing::Values(std::pair(0, SIGINT), std::pair(1, SIGTERM)));

TEST(ServeTest, SigtermToMpirunLeavesNoRank) {
  Served served;
  kill(served.job().pid(), SIGTERM);
  served.job().Wait();  // mpirun calls this a failure, whatever its ranks do
  EXPECT_TRUE(served.Gone());
}

TEST(ServeTest, CtrlCOfAClientCancels) {
  Served served = Served::Endless();
  BackgroundProcess client({kIntermix, "client", "generate", "--server", served.address(),
                            "--prompt", "And", "--max-tokens", std::to_string(kEndless),
                            "--ignore-eos"});
  ASSERT_TRUE(served.Running(1));
  kill(client.pid(), SIGINT);
  EXPECT_EQ(client.Wait(), 128 + SIGINT);
  EXPECT_THAT(client.err(), HasSubstr("CANCELLED"));
  EXPECT_TRUE(served.Running(0));
  EXPECT_LT(served.Engine().generated_tokens(), kEndless);
}

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

// Lines that hold `part`; not a last one that has not been written to its end.
std::vector<std::string> LinesWith(const std::string& part, const std::string& text) {
  std::vector<std::string> found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line) && !lines.eof();) {
    if (line.find(part) != std::string::npos) found.push_back(line);
  }
  return found;
}

// Lines of the log that hold `part`; waits, four minutes at most, until there is one.
std::vector<std::string> LogLines(Served& served, const std::string& part) {
  std::vector<std::string> found;
  for (int i = 0; i < 24000 && found.empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    found = LinesWith(part, served.job().err());
  }
  return found;
}

TEST(ServeTest, EveryRequestHasItsLineInTheLog) {
  Served served({"--no-prefix-cache"});
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  EXPECT_EQ(served
                .Client({"generate", "--prompt", "And", "--max-tokens", "4", "--ignore-eos",
                         "--traceparent", trace})
                .exit_code,
            0);
  EXPECT_THAT(LogLines(served, trace),
              ElementsAre(AllOf(HasSubstr("request id=\"#1\" traceparent=" + trace),
                                HasSubstr(" status=OK finish=length prompt_tokens=2 "),
                                HasSubstr(" output_tokens=4 queue_ms="))));
  EXPECT_EQ(served.Client({"generate", "--prompt", "x", "--traceparent", "00-1-2-3"}).exit_code, 2);
  // What preflight finds amiss with a machine is about its host.
  EXPECT_THAT(LinesWith("warning", served.job().err()), Each(HasSubstr(" host ")));
}

TEST(ServeTest, NobodyForgesALineOfTheLog) {
  Served served({"--log-format", "json"});
  v1::GenerateRequest request = Request("And", 1);
  request.set_request_id("mine\nintermix: all is well\n\"}");
  grpc::ClientContext context;
  context.set_deadline(Soon());
  v1::GenerateResponse response;
  const auto reader = served.inference().Generate(&context, request);
  while (reader->Read(&response)) {
  }
  const std::vector<std::string> lines = LogLines(served, "all is well");
  ASSERT_THAT(lines, SizeIs(1));
  const auto json = nlohmann::json::parse(lines[0], nullptr, false);
  ASSERT_TRUE(json.is_object()) << lines[0];
  EXPECT_EQ(json["request_id"], request.request_id());
  EXPECT_EQ(json["status"], "OK");
  EXPECT_EQ(json["output_tokens"], 1);
}

TEST(ServeTest, ATakenPortIsRefusedInOneSentence) {
  Served first;
  BackgroundProcess second(Mpirun(2, {"serve", "--model", kModel, "--listen", first.address()}));
  EXPECT_NE(second.Wait(), 0);
  EXPECT_EQ(Count(second.err(), "something listens on " + first.address() + " already"), 1)
      << second.err();
}

TEST(ServeTest, ABadModelIsRefusedOnce) {
  BackgroundProcess job(Mpirun(2, {"serve", "--model", "/nonexistent", "--listen", ":0"}));
  EXPECT_NE(job.Wait(), 0);
  EXPECT_EQ(Count(job.err(), "intermix: --model /nonexistent is not a directory"), 1) << job.err();
}

}  // namespace
}  // namespace intermix
