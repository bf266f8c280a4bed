// What start-up learns of a model directory without reading its weights.
#include "runtime/checkpoint/inspect_model_files.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/model_files.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class InspectModelFilesTest : public ::testing::Test {
 protected:
  InspectModelFilesTest() { CopyModel("tiny-mixtral", directory_.path()); }

  ModelFiles Inspect() const { return InspectModelFiles(directory_.path()); }

  TempDirectory directory_;
};

TEST_F(InspectModelFilesTest, ACopyHasTheSameFingerprint) {
  const ModelFiles files = Inspect();
  EXPECT_THAT(files.problems, IsEmpty());
  EXPECT_THAT(files.fingerprint, SizeIs(16));
  EXPECT_EQ(files.fingerprint, InspectModelFiles(TestData() + "/tiny-mixtral").fingerprint);
}

TEST_F(InspectModelFilesTest, WhateverDecidesAboutTokensChangesIt) {
  const std::string before = Inspect().fingerprint;
  const auto changed = [&](const std::string& name, size_t at) {
    const std::string original = ReadFile(directory_ / name);
    std::string bytes = original;
    bytes[at] ^= 1;
    WriteFile(directory_ / name, bytes);
    const bool differs = Inspect().fingerprint != before;
    WriteFile(directory_ / name, original);
    return differs;
  };
  EXPECT_TRUE(changed("config.json", 5));
  EXPECT_TRUE(changed("tokenizer.model", 1000));
  EXPECT_TRUE(changed("model.safetensors", 50)) << "in its header";
  EXPECT_EQ(Inspect().fingerprint, before);

  // A model of the same shape that was trained on.
  EditTensors(directory_.path(), [](std::map<std::string, FileTensor>& tensors) {
    for (auto& [name, tensor] : tensors) {
      for (char& byte : tensor.bytes) byte ^= 1;
    }
  });
  EXPECT_NE(Inspect().fingerprint, before);
}

TEST_F(InspectModelFilesTest, EveryUnreadableFileIsNamed) {
  std::filesystem::remove(directory_ / "config.json");
  std::filesystem::remove(directory_ / "tokenizer.model");
  std::filesystem::create_symlink("gone", directory_ / "tokenizer.model");
  std::filesystem::remove(directory_ / "model.safetensors");
  std::filesystem::create_directory(directory_ / "model.safetensors");
  const ModelFiles files = Inspect();
  EXPECT_THAT(
      files.problems,
      ElementsAre(
          "cannot read " + directory_.path() + "/config.json: No such file or directory",
          "cannot read " + directory_.path() + "/model.safetensors: Is a directory",
          "cannot read " + directory_.path() + "/tokenizer.model: No such file or directory"));
  EXPECT_EQ(files.fingerprint, "");
}

TEST_F(InspectModelFilesTest, FilesThatTheIndexNamesAreLookedFor) {
  std::filesystem::rename(directory_ / "model.safetensors", directory_ / "part-1.safetensors");
  WriteFile(directory_ / "model.safetensors.index.json",
            R"({"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}})");
  EXPECT_THAT(Inspect().problems, ElementsAre(HasSubstr("/part-2.safetensors: No such file")));
  std::filesystem::copy(directory_ / "part-1.safetensors", directory_ / "part-2.safetensors");
  EXPECT_THAT(Inspect().problems, IsEmpty());
  EXPECT_THAT(Inspect().fingerprint, SizeIs(16));
}

TEST_F(InspectModelFilesTest, DamagedFilesAreNoMatter) {
  WriteFile(directory_ / "model.safetensors", "abc");
  EXPECT_THAT(Inspect().fingerprint, SizeIs(16));
  WriteFile(directory_ / "model.safetensors", std::string(20, '\xFF'));
  EXPECT_THAT(Inspect().fingerprint, SizeIs(16));
  WriteFile(directory_ / "model.safetensors", "");
  EXPECT_THAT(Inspect().fingerprint, SizeIs(16));
}

}  // namespace
}  // namespace intermix
