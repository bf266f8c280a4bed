// Jobs that cannot run: all reasons at once, from every kind of command, and nobody hangs. mpirun
// starts the ranks with different command lines, as hosts with different files would.
#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/model_files.h"
#include "tests/testing/run_program.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

const std::string kModel = TestData() + "/tiny-mixtral";

// `mpirun -n 1 ZERO : -n 1 ONE`.
ProgramResult RunTwo(const std::vector<std::string>& zero, const std::vector<std::string>& one) {
  std::vector<std::string> all = {MpiRun(), "-n", "1"};
  all.insert(all.end(), zero.begin(), zero.end());
  all.insert(all.end(), {":", "-n", "1"});
  all.insert(all.end(), one.begin(), one.end());
  return RunProgram({.arguments = all});
}

std::vector<std::string> Generate(const std::string& model, const std::string& tp = "0") {
  return {IntermixBinary(), "generate", "--model",      model, "--prompt", "And",
          "--tp",           tp,         "--max-tokens", "4"};
}

TEST(PreflightTest, SeveralReasonsAreSaidAtOnce) {
  const ProgramResult result =
      RunProgram({.arguments = {MpiRun(), "-n", "3", IntermixBinary(), "serve", "--model", kModel,
                                "--tp", "2", "--ep", "2", "--max-context", "5000", "--kv-memory",
                                "9000GB", "--listen", "localhost:99999"}});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("intermix: the job cannot start, for 4 reasons:\n"),
                    HasSubstr("\n  --tp 2 does not divide the 3 ranks of this job\n"),
                    HasSubstr("\n  --ep 2 does not divide the 3 ranks of this job\n"),
                    HasSubstr("\n  a context of 5000 tokens is longer than the model's 2048\n"),
                    HasSubstr("\n  rank 0: ")));
}

TEST(PreflightTest, MemoryThatIsNotThereIsNotAskedFor) {
  std::vector<std::string> perplexity = {IntermixBinary(), "perplexity", "--model",     kModel,
                                         "--text",         "/nowhere",   "--kv-memory", "9000GB"};
  const ProgramResult result = RunProgram({.arguments = perplexity});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("cannot read --text /nowhere"),
                                HasSubstr("of memory free, but its rank needs ")));
}

TEST(PreflightTest, RanksWithDifferentCheckpointsDoNotStart) {
  TempDirectory other;
  CopyModel("tiny-mixtral", other.path());
  EXPECT_EQ(RunTwo(Generate(kModel), Generate(other.path())).exit_code, 0) << "a copy is as good";
  EditTensors(other.path(), [](std::map<std::string, FileTensor>& tensors) {
    for (auto& [name, tensor] : tensors) tensor.bytes[0] ^= 1;
  });
  const ProgramResult result = RunTwo(Generate(kModel), Generate(other.path()));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("intermix: the ranks read different checkpoints: "));
  EXPECT_THAT(result.out, IsEmpty());
}

TEST(PreflightTest, AFileThatOneRankCannotReadIsNamed) {
  TempDirectory other;
  CopyModel("tiny-mixtral", other.path());
  std::filesystem::remove(other / "config.json");
  std::filesystem::create_symlink("not-mounted/config.json", other / "config.json");
  const ProgramResult result = RunTwo(Generate(kModel), Generate(other.path(), "2"));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("rank 1: cannot read " + other.path() + "/config.json: No such file"),
                    HasSubstr("the ranks were started with different options: --tp 0 "),
                    Not(HasSubstr("different checkpoints"))));
}

TEST(PreflightTest, AnotherBuildIsNotTheSame) {
  // The linker's note: name 4 bytes, id 20 bytes, type 3, "GNU".
  const std::string note("\4\0\0\0\24\0\0\0\3\0\0\0GNU\0", 16);
  std::string program = ReadFile(IntermixBinary());
  const size_t at = program.find(note);
  ASSERT_NE(at, std::string::npos);
  program[at + note.size()] ^= 1;
  TempDirectory directory;
  const std::string other = directory / "intermix";
  WriteFile(other, program);
  std::filesystem::permissions(other, std::filesystem::perms::owner_all);
  std::vector<std::string> one = Generate(kModel);
  one[0] = other;
  const ProgramResult result = RunTwo(Generate(kModel), one);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("the ranks run different builds of Intermix: "));
}

}  // namespace
}  // namespace intermix
