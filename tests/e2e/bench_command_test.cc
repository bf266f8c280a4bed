// `intermix bench` as a user runs it, briefly.
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/model_files.h"
#include "tests/testing/run_program.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

ProgramResult Bench(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {IntermixBinary(), "bench"});
  return RunProgram({.arguments = arguments});
}

TEST(BenchCommandTest, MeasuresATinyModel) {
  const ProgramResult result = Bench({"model",
                                      "--config",
                                      TestData() + "/tiny-mixtral",
                                      "--threads",
                                      "2",
                                      "-p",
                                      "16",
                                      "-n",
                                      "2",
                                      "-b",
                                      "1,2",
                                      "--context",
                                      "16",
                                      "--group-size",
                                      "32",
                                      "--kv-dtype",
                                      "int8",
                                      "--turns",
                                      "1",
                                      "-o",
                                      "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  ASSERT_EQ(json.at("model").size(), 3u);
  EXPECT_EQ(json["model"][0]["phase"], "prompt 16");
  for (const nlohmann::json& row : json["model"]) {
    EXPECT_GT(row["tokens/s"].get<double>(), 0.0);
    EXPECT_GT(row["% of int8"].get<double>(), 0.0);
    EXPECT_GT(row["% of memory"].get<double>(), 0.0);
  }
  EXPECT_EQ(json.at("limits").size(), 3u);
  EXPECT_FALSE(json.at("ops").empty());
  EXPECT_NE(result.err.find("bench: generate, batch 2"), std::string::npos) << result.err;
}

TEST(BenchCommandTest, MeasuresLayoutsOfSeveralRanks) {
  const auto measure = [](const std::string& tp, const std::string& ep) {
    return RunProgram({.arguments = {MpiRun(),
                                     "-n",
                                     "2",
                                     IntermixBinary(),
                                     "bench",
                                     "model",
                                     "--config",
                                     TestData() + "/tiny-mixtral",
                                     "--threads",
                                     "1",
                                     "-p",
                                     "16",
                                     "-n",
                                     "2",
                                     "-b",
                                     "3",
                                     "--context",
                                     "16",
                                     "--group-size",
                                     "32",
                                     "--turns",
                                     "1",
                                     "--tp",
                                     tp,
                                     "--ep",
                                     ep,
                                     "-o",
                                     "json"}});
  };
  for (const char* tp : {"1", "2"}) {
    const ProgramResult result = measure(tp, "2");
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const nlohmann::json json = nlohmann::json::parse(result.out);
    ASSERT_EQ(json.at("model").size(), 2u);
    EXPECT_GT(json["model"][1]["tokens/s"].get<double>(), 0.0) << "tp " << tp;
  }
  const ProgramResult refused = measure("3", "2");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.err.find("3 does not divide"), std::string::npos) << refused.err;
}

TEST(BenchCommandTest, MeasuresChosenKernels) {
  const ProgramResult result =
      Bench({"kernels", "--config", TestData() + "/tiny-mixtral", "--tokens", "1,3", "--contexts",
             "8", "--filter", "norm", "--turns", "1", "-o", "csv"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out.find("table,limit"), 0u) << result.out;
  EXPECT_NE(result.out.find("\nkernels,norm,"), std::string::npos) << result.out;
  EXPECT_EQ(result.out.find("linear"), std::string::npos) << result.out;
}

TEST(BenchCommandTest, MeasuresWhatAStepTakesOutsideTheKernels) {
  const ProgramResult result = Bench({"engine", "--model", TestData() + "/tiny-mixtral", "-n", "4",
                                      "-b", "1,2", "--threads", "1", "--turns", "1", "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  ASSERT_EQ(json.at("engine").size(), 2u);
  for (const nlohmann::json& row : json["engine"]) {
    EXPECT_GT(row["us in kernels"].get<double>(), 0.0);
    EXPECT_NEAR(row["us in kernels"].get<double>() + row["us outside"].get<double>(),
                row["us/step"].get<double>(), 1e-3);
  }
}

TEST(BenchCommandTest, MeasuresModelFilesAndRemovesThem) {
  const TempDirectory scratch;
  const ProgramResult result =
      Bench({"checkpoint", "--config", TestData() + "/tiny-mixtral", "--layers", "1", "--scratch",
             scratch.path(), "--threads", "1", "--turns", "1", "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  ASSERT_EQ(json.at("checkpoint").size(), 6u);
  EXPECT_EQ(json["checkpoint"][0]["work"], "quantise (of the original)");
  EXPECT_GT(json.at("resident")[0]["peak / shard"].get<double>(), 1.0);
  EXPECT_TRUE(ListNames(scratch.path()).empty());
}

TEST(BenchCommandTest, RefusesWhatIsNotThere) {
  const ProgramResult device = Bench({"kernels", "--device", "abacus"});
  EXPECT_EQ(device.exit_code, 1);
  EXPECT_NE(device.err.find("abacus"), std::string::npos) << device.err;
  const ProgramResult config = Bench({"model", "--config", "nothing"});
  EXPECT_EQ(config.exit_code, 1);
  EXPECT_NE(config.err.find("mixtral-8x7b"), std::string::npos) << config.err;
  EXPECT_EQ(Bench({"peak", "-o", "xml"}).exit_code, 1);
  EXPECT_EQ(Bench({}).exit_code, 2);
  EXPECT_EQ(Bench({"kernels", "--contexts", "0"}).exit_code, 2);
  const ProgramResult tokens = Bench({"kernels", "--tokens", "1,-3"});
  EXPECT_EQ(tokens.exit_code, 2);
  EXPECT_NE(tokens.err.find("--tokens: must be above 0, not -3"), std::string::npos) << tokens.err;
}

}  // namespace
}  // namespace intermix
