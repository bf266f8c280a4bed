// The reader against a file of each kind of damage, and the writer against an independent reader.
#include "runtime/checkpoint/safetensors.h"

#include <algorithm>
#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/core/buffer.h"
#include "runtime/checkpoint/safetensors_writer.h"
#include "tests/testing/model_files.h"

namespace intermix {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<SafetensorsEntries> Parse(const std::string& bytes) {
  return ParseSafetensors({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "file");
}

std::string Refusal(const std::string& bytes) {
  const absl::Status status = Parse(bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

// A file with this header and `data_bytes` of data.
std::string File(const std::string& header, size_t data_bytes) {
  return SafetensorsBytes(header, std::string(data_bytes, 'x'));
}

TEST(Safetensors, ReadsAValidFile) {
  const std::string header =
      R"({"__metadata__": {"format": "pt"},
          "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
          "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
          "none": {"dtype": "I64", "shape": [0, 7], "data_offsets": [8, 8]}}   )";
  const auto entries = Parse(File(header, 20));
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ(entries->at("b").dtype, "BF16");
  EXPECT_THAT(entries->at("b").shape, ElementsAre(2, 3));
  EXPECT_EQ(entries->at("b").begin, 8 + header.size() + 8);
  EXPECT_EQ(entries->at("b").end, 8 + header.size() + 20);
}

TEST(Safetensors, ReadsAFileWithoutTensors) { EXPECT_TRUE(Parse(File("{}", 0)).ok()); }

TEST(Safetensors, RefusesATruncatedFile) {
  const std::string good =
      File(R"({"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}})", 9);
  ASSERT_TRUE(Parse(good).ok());
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(Parse(good.substr(0, size)).status().code(), absl::StatusCode::kInvalidArgument)
        << size;
  }
  EXPECT_THAT(Refusal(good.substr(0, good.size() - 1)), HasSubstr("is the file truncated?"));
  EXPECT_THAT(Refusal("short"), HasSubstr("has 5 bytes"));
}

TEST(Safetensors, RefusesAHeaderLongerThanTheFile) {
  EXPECT_THAT(Refusal(std::string("\x40\0\0\0\0\0\0\0{}", 10)),
              HasSubstr("header of 64 bytes is longer than the file"));
  EXPECT_THAT(Refusal(std::string(8, '\xFF') + "{}"),
              HasSubstr("header of 18446744073709551615 bytes is longer than the file"));
}

TEST(Safetensors, RefusesAHeaderThatIsNoObject) {
  for (const char* header : {"", "[]", "7", "{", "{\"a\": }", "\xFF", "{} {}", "{\"a\": 1e999}"}) {
    Refusal(File(header, 0));
  }
  EXPECT_THAT(Refusal(File("[]", 0)), HasSubstr("not a JSON object"));
}

TEST(Safetensors, RefusesDeepNesting) {
  const std::string deep = R"({"a": )" + std::string(200000, '[');
  EXPECT_THAT(Refusal(File(deep, 0)), HasSubstr("nested deeper"));
}

TEST(Safetensors, RefusesANameGivenTwice) {
  EXPECT_THAT(Refusal(File(R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                               "a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}})",
                           2)),
              HasSubstr(R"(the name "a" twice)"));
}

TEST(Safetensors, RefusesOverlappingTensors) {
  EXPECT_THAT(Refusal(File(R"({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                               "b": {"dtype": "U8", "shape": [4], "data_offsets": [3, 7]}})",
                           7)),
              HasSubstr(R"("a" and "b" overlap)"));
}

TEST(Safetensors, RefusesHoles) {
  const std::string late = R"({"a": {"dtype": "U8", "shape": [4], "data_offsets": [1, 5]}})";
  EXPECT_THAT(Refusal(File(late, 5)), HasSubstr("belong to no tensor"));
  const std::string early = R"({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}})";
  EXPECT_THAT(Refusal(File(early, 5)), HasSubstr("the last 1 bytes belong to no tensor"));
}

TEST(Safetensors, RefusesOffsetsOutsideTheFile) {
  for (const char* offsets : {"[0, 5]", "[4, 8]", "[0, 18446744073709551615]",
                              "[9223372036854775807, 9223372036854775807]", "[4, 0]", "[-4, 0]",
                              "[0]", "[0, 2, 4]", "[0, 4.0]", "[\"0\", 4]", "4", "null"}) {
    Refusal(File(
        std::string(R"({"a": {"dtype": "U8", "shape": [4], "data_offsets": )") + offsets + "}}",
        4));
  }
}

TEST(Safetensors, RefusesAShapeThatDoesNotFillItsBytes) {
  EXPECT_THAT(
      Refusal(File(R"({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 20]}})", 20)),
      HasSubstr(R"(tensor "w" of dtype F32 and shape [2, 3] does not fill its 20 bytes)"));
  for (const char* shape :
       {"[-4]", "[5]", "[4.0]", "[null]", "\"4\"", "null", "[4294967296, 4294967296, 1]",
        "[9223372036854775807, 9223372036854775807, 4]", "[18446744073709551615]"}) {
    Refusal(File(
        std::string(R"({"a": {"dtype": "U8", "data_offsets": [0, 4], "shape": )") + shape + "}}",
        4));
  }
}

TEST(Safetensors, RefusesAProductThatOverflowsToTheRightSize) {
  // 2^32 * 2^32 * ... wraps to 0 in 64 bits.
  Refusal(File(R"({"a": {"dtype": "U8", "shape": [4294967296, 4294967296],
                         "data_offsets": [0, 0]}})",
               0));
}

TEST(Safetensors, RefusesAnUnknownDType) {
  EXPECT_THAT(Refusal(File(R"({"a": {"dtype": "Q3", "shape": [4], "data_offsets": [0, 4]}})", 4)),
              HasSubstr(R"(unknown dtype "Q3")"));
  Refusal(File(R"({"a": {"dtype": 3, "shape": [4], "data_offsets": [0, 4]}})", 4));
  Refusal(File(R"({"a": {"shape": [4], "data_offsets": [0, 4]}})", 4));
  Refusal(File(R"({"a": 4})", 4));
}

TEST(Safetensors, NamesTheFileThatCannotBeOpened) {
  const TempDirectory directory;
  const auto missing = SafetensorsFile::Open(directory / "no.safetensors");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr(directory / "no.safetensors"));
  EXPECT_EQ(SafetensorsFile::Open(directory.path()).status().code(),
            absl::StatusCode::kInvalidArgument);
  WriteFile(directory / "empty.safetensors", "");
  EXPECT_EQ(SafetensorsFile::Open(directory / "empty.safetensors").status().code(),
            absl::StatusCode::kInvalidArgument);
}

OwnedTensor Bytes(DType dtype, std::initializer_list<int64_t> shape, char fill) {
  OwnedTensor tensor = OwnedTensor::Host(dtype, shape);
  std::fill_n(static_cast<char*>(tensor.view.raw()), tensor.view.bytes(), fill);
  return tensor;
}

TEST(SafetensorsWriter, WritesWhatAnIndependentReaderReads) {
  const TempDirectory directory;
  const std::string path = directory / "out.safetensors";
  const OwnedTensor codes = Bytes(DType::kU8, {3, 5}, 'c');
  const OwnedTensor scales = Bytes(DType::kF32, {3}, 's');
  const OwnedTensor halves = Bytes(DType::kBF16, {1, 7}, 'h');
  auto writer = SafetensorsWriter::Create(path, {{"codes", DType::kU8, {3, 5}},
                                                 {"halves", DType::kBF16, {1, 7}},
                                                 {"scales", DType::kF32, {3}}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Write("scales", scales.view).ok());
  ASSERT_TRUE((*writer)->Write("codes", codes.view).ok());
  EXPECT_EQ((*writer)->Finish().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE((*writer)->Write("halves", halves.view).ok());
  EXPECT_FALSE(std::filesystem::exists(path)) << "visible before it is complete";
  ASSERT_TRUE((*writer)->Finish().ok());

  const std::string bytes = ReadFile(path);
  EXPECT_EQ(static_cast<int64_t>(bytes.size()), (*writer)->file_bytes());
  const auto tensors = DecodeSafetensors(bytes);
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors.at("codes").bytes, std::string(15, 'c'));
  EXPECT_EQ(tensors.at("scales").bytes, std::string(12, 's'));
  EXPECT_EQ(tensors.at("halves").bytes, std::string(14, 'h'));
  EXPECT_THAT(tensors.at("codes").shape, ElementsAre(3, 5));
  const auto read = SafetensorsFile::Open(path);
  ASSERT_TRUE(read.ok()) << read.status();
  for (const auto& [name, entry] : read->entries) {
    const auto element = ByteSize(*DTypeFromName(entry.dtype));
    EXPECT_EQ(entry.begin % element, 0u) << name << " is not aligned";
  }
}

TEST(SafetensorsWriter, LeavesNothingBehindWithoutFinish) {
  const TempDirectory directory;
  {
    auto writer =
        SafetensorsWriter::Create(directory / "out.safetensors", {{"a", DType::kU8, {3}}});
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_FALSE(ListNames(directory.path()).empty());
  }
  EXPECT_THAT(ListNames(directory.path()), ElementsAre());
}

TEST(SafetensorsWriter, RefusesANameTwiceAndAPathThatIsNotThere) {
  const TempDirectory directory;
  EXPECT_EQ(
      SafetensorsWriter::Create(directory / "a", {{"a", DType::kU8, {3}}, {"a", DType::kU8, {3}}})
          .status()
          .code(),
      absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(SafetensorsWriter::Create(directory / "no/a", {}).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_THAT(ListNames(directory.path()), ElementsAre());
}

}  // namespace
}  // namespace intermix
