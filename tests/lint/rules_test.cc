// Each rule sees the violation that it is for, and lets correct code pass.
#include "tests/lint/rules.h"

#include <cstdlib>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix::lint {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// "line: rule" of every violation in a file of this path and text.
std::vector<std::string> Found(const std::string& path, const std::string& text) {
  std::vector<std::string> found;
  for (const Violation& violation : CheckFile(path, text)) {
    found.push_back(std::to_string(violation.line) + ": " + violation.rule);
  }
  return found;
}

std::string Repeat(const std::string& line, int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += line;
  return text;
}

constexpr char kHeader[] = "// What it is for.\n#pragma once\n";

TEST(RulesTest, ARoomIncludesItselfAndWhatStandsLeftOfIt) {
  EXPECT_THAT(Found("moe/router.cc",
                    "#include \"moe/router.h\"\n#include \"comm/sharding.h\"\n"
                    "#include \"kernels/backend.h\"\n#include <vector>\n"),
              IsEmpty());
  EXPECT_THAT(Found("kernels/cpu/gemm.cc", "#include \"comm/sharding.h\"\n"),
              ElementsAre(HasSubstr("the direction is")));
  EXPECT_THAT(Found("comm/sharding.cc", "#include \"moe/router.h\"\n"),
              ElementsAre(HasSubstr("the direction is")));
  EXPECT_THAT(Found("moe/router.cc", "#include \"runtime/kv/kv_cache.h\"\n"),
              ElementsAre(HasSubstr("the direction is")));
  EXPECT_THAT(Found("runtime/model/a.cc", "  #  include \"launch/commands.h\"\n"),
              ElementsAre(HasSubstr("the direction is")));
  EXPECT_THAT(Found("runtime/model/a.cc", "#include \"tests/testing/compare.h\"\n"),
              ElementsAre(HasSubstr("of the tests")));
  EXPECT_THAT(Found("runtime/model/a.cc", "#include \"../kv/kv_cache.h\"\n"),
              ElementsAre(HasSubstr("from the root")));
  EXPECT_THAT(Found("tests/moe/router_test.cc", "#include \"runtime/kv/kv_cache.h\"\n"), IsEmpty());
}

TEST(RulesTest, OutsideHeadersStayBehindTheirFence) {
  EXPECT_THAT(Found("comm/mpi_communicator.cc", "#include <mpi.h>\n"), IsEmpty());
  EXPECT_THAT(Found("comm/sharding.cc", "#include <mpi.h>\n"), ElementsAre(HasSubstr("MPI")));
  EXPECT_THAT(Found("tests/comm/a_test.cc", "#include \"mpi.h\"\n"), ElementsAre(HasSubstr("MPI")));
  EXPECT_THAT(Found("comm/nccl_communicator.cc", "#include <nccl.h>\n"), IsEmpty());
  EXPECT_THAT(Found("comm/mpi_communicator.cc", "#include <nccl.h>\n"),
              ElementsAre(HasSubstr("NCCL")));
  EXPECT_THAT(Found("kernels/cuda/a.cu", "#include <cuda_runtime.h>\n"), IsEmpty());
  EXPECT_THAT(Found("kernels/cpu/a.cc", "#include <cuda_runtime.h>\n"),
              ElementsAre(HasSubstr("CUDA")));
  EXPECT_THAT(Found("runtime/rpc/a.cc", "#include \"intermix/v1/inference.grpc.pb.h\"\n"),
              IsEmpty());
  EXPECT_THAT(Found("runtime/engine/a.cc", "#include \"intermix/v1/inference.grpc.pb.h\"\n"),
              ElementsAre(HasSubstr("gRPC")));
  EXPECT_THAT(Found("moe/a.cc", "#include <grpcpp/grpcpp.h>\n#include <google/protobuf/any.h>\n"),
              ElementsAre(HasSubstr("gRPC"), HasSubstr("gRPC")));
}

TEST(RulesTest, FilesStayShort) {
  const std::vector<std::pair<std::string, int>> limits = {{"comm/a.cc", 400},
                                                           {"kernels/cuda/a.cu", 800},
                                                           {"tests/comm/a_test.cc", 600},
                                                           {"launch/serve_command.cc", 150}};
  for (const auto& [path, limit] : limits) {
    EXPECT_THAT(Found(path, Repeat("int x;\n", limit)), IsEmpty()) << path;
    EXPECT_THAT(Found(path, Repeat("int x;\n", limit + 1)), ElementsAre(HasSubstr("longer than")))
        << path;
  }
  EXPECT_THAT(Found("comm/a.h", kHeader + Repeat("\n", 198)), IsEmpty());
  EXPECT_THAT(Found("comm/a.h", kHeader + Repeat("\n", 199)),
              ElementsAre(HasSubstr("longer than 200")));
  EXPECT_THAT(Found("comm/README.md", Repeat("text\n", 71)), ElementsAre(HasSubstr("longer than")));
}

TEST(RulesTest, LinesAreNarrowAndClean) {
  EXPECT_THAT(Found("comm/a.cc", "//" + Repeat("é", 98) + "\n"), IsEmpty());
  EXPECT_THAT(Found("comm/a.cc", "//" + Repeat("x", 99) + "\n"),
              ElementsAre(HasSubstr("101 columns")));
  EXPECT_THAT(Found("comm/a.cc", "int x;\n\tint y;\n"), ElementsAre("2: holds a tab; indent with "
                                                                    "spaces"));
  EXPECT_THAT(Found("launch/check", "echo \n"), ElementsAre(HasSubstr("ends in a space")));
  EXPECT_THAT(Found("comm/a.cc", "int x;\r\n"), ElementsAre(HasSubstr("carriage return")));
  EXPECT_THAT(Found("comm/a.cc", "int x;"), ElementsAre(HasSubstr("newline")));
}

TEST(RulesTest, NothingIsLeftUnfinished) {
  EXPECT_THAT(Found("comm/a.cc", std::string("// TO") + "DO: later\n"),
              ElementsAre(HasSubstr("unfinished")));
  EXPECT_THAT(Found("launch/check", std::string("# FIX") + "ME\n"),
              ElementsAre(HasSubstr("unfinished")));
  EXPECT_THAT(Found("comm/a.cc", "// a mastodon\n"), IsEmpty());
}

TEST(RulesTest, NoPathOfSomebodysMachine) {
  EXPECT_THAT(Found("launch/check", std::string("cd /ho") + "me/ann/intermix\n"),
              ElementsAre(HasSubstr("machine")));
  EXPECT_THAT(Found("launch/check", "cd \"$HOME\"/intermix # not /homework/\n"), IsEmpty());
}

TEST(RulesTest, HeadersSayWhatTheyAreFor) {
  EXPECT_THAT(Found("comm/a.h", "// For a.\n#pragma once\nint x;\n"), IsEmpty());
  EXPECT_THAT(Found("comm/a.h", "#pragma once\nint x;\n"),
              ElementsAre(HasSubstr("opens without a comment")));
  EXPECT_THAT(Found("comm/a.h", "// For a.\nint x;\n"), ElementsAre(HasSubstr("#pragma once")));
}

TEST(RulesTest, NoExceptionsAndNoMacros) {
  EXPECT_THAT(Found("comm/a.cc", "// never throw here\nauto s = \"throw\";  // throw\n"),
              IsEmpty());
  EXPECT_THAT(Found("comm/a.cc", "if (bad) throw 1'000;\n"), ElementsAre(HasSubstr("Status")));
  EXPECT_THAT(Found("comm/a.cc", "#define CHECK_IT(x) x\n"), IsEmpty());
  EXPECT_THAT(Found("comm/a.cc", "#define RETURN_IF_ERROR(x) x\n"),
              ElementsAre(HasSubstr("macro RETURN_IF_ERROR")));
}

class TreeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/lint_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr) << pattern;
    root_ = pattern;
    Write("comm/README.md", "# comm\n");
    Write("comm/CMakeLists.txt", "add_library(comm a.cc)\n");
    Write("comm/a.cc", "int x;\n");
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::vector<std::string> FoundInTree() const {
    std::vector<std::string> found;
    for (const Violation& violation : CheckTree(root_)) found.push_back(violation.ToString());
    return found;
  }

  fs::path root_;
};

TEST_F(TreeTest, ACleanTreePasses) { EXPECT_THAT(FoundInTree(), IsEmpty()); }

TEST_F(TreeTest, SeesAViolationInsideAFile) {
  Write("comm/a.cc", "#include <vector>\n#include <mpi.h>\n");
  EXPECT_THAT(FoundInTree(), ElementsAre(HasSubstr("comm/a.cc:2: includes mpi.h")));
}

TEST_F(TreeTest, SeesASourceThatIsNeverBuilt) {
  Write("comm/extra.cc", "int y;\n");
  Write("comm/CMakeLists.txt", "add_library(comm a.cc not_extra.cc)\n");
  EXPECT_THAT(FoundInTree(), ElementsAre(HasSubstr("comm/extra.cc:0: is in no CMakeLists.txt")));
}

TEST_F(TreeTest, SeesARoomWithoutReadme) {
  Write("runtime/kv/a.cc", "int y;\n");
  Write("runtime/CMakeLists.txt", "add_library(runtime kv/a.cc)\n");
  Write("runtime/README.md", "# runtime\n");
  EXPECT_THAT(FoundInTree(), ElementsAre(HasSubstr("runtime/kv:0: has no README.md")));
}

TEST_F(TreeTest, SeesCodeOutsideTheRooms) {
  Write("misc/helper.cc", "int y;\n");
  Write("build/generated.cc", "\tint y;\n");
  Write("tests/data/model/train.cc", "\tint y;\n");
  EXPECT_THAT(FoundInTree(), ElementsAre(HasSubstr("misc/helper.cc:0: is code outside")));
}

}  // namespace
}  // namespace intermix::lint
