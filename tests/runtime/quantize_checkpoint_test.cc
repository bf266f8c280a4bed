// Quantising to disk: reading back gives the bits that quantising while loading gives, damage is
// refused, and the directory is there whole or not at all.
#include "runtime/checkpoint/quantize_checkpoint.h"

#include <cstring>
#include <filesystem>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/model_tensors.h"
#include "runtime/checkpoint/output_directory.h"
#include "runtime/checkpoint/quantization_config.h"
#include "tests/testing/compare.h"
#include "tests/testing/model_files.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Data(const std::string& model) { return TestData() + "/" + model; }

absl::Status QuantizeTo(const std::string& model, const std::string& out, const QuantSpec& spec,
                        bool force = false) {
  return QuantizeCheckpoint(
             {.model_directory = model, .out_directory = out, .spec = spec, .force = force})
      .status();
}

::testing::AssertionResult SameWeight(const QuantizedWeight& a, const QuantizedWeight& b) {
  if (!(a.format == b.format) || a.n != b.n || a.k != b.k) {
    return ::testing::AssertionFailure()
           << a.format.ToString() << " " << a.n << " vs " << b.format.ToString() << " " << b.n;
  }
  for (Tensor QuantizedWeight::*part : {&QuantizedWeight::codes, &QuantizedWeight::group_scales,
                                        &QuantizedWeight::channel_scales}) {
    if ((a.*part).empty() && (b.*part).empty()) continue;
    const ::testing::AssertionResult same = BitwiseEqual(a.*part, b.*part);
    if (!same) return same;
  }
  return ::testing::AssertionSuccess();
}

struct RoundTripCase {
  std::string name;
  std::string model;
  QuantSpec spec;
};

void PrintTo(const RoundTripCase& c, std::ostream* out) { *out << c.name; }

class RoundTrip : public ::testing::TestWithParam<RoundTripCase> {};

TEST_P(RoundTrip, GivesTheBitsOfQuantisingWhileLoading) {
  const auto& [name, model, spec] = GetParam();
  const TempDirectory directory;
  const absl::Status written = QuantizeTo(Data(model), directory / "out", spec);
  ASSERT_TRUE(written.ok()) << written;
  const auto original = OpenCheckpoint(Data(model), spec);
  const auto quantized = OpenCheckpoint(directory / "out", QuantSpec{});
  ASSERT_TRUE(original.ok() && quantized.ok()) << quantized.status();
  const ModelConfig& config = (*original)->config();
  EXPECT_EQ((*quantized)->config().vocab_size, config.vocab_size);

  const auto compare = [&](const ModelTensor& tensor) {
    const int64_t n = tensor.shape[0];
    if (tensor.linear) {
      // Thirds of the rows, the last with padding beyond the end, as a padded vocabulary has.
      for (int64_t part = 0; part < 3; ++part) {
        const Slice rows = Part((n + 2) / 3 * 3, 3, part);
        const auto a = (*original)->LoadLinear(tensor.layer, n, tensor.shape[1], rows);
        const auto b = (*quantized)->LoadLinear(tensor.layer, n, tensor.shape[1], rows);
        EXPECT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
        if (a.ok() && b.ok()) {
          EXPECT_TRUE(SameWeight(*b, *a)) << tensor.layer;
        }
      }
      return absl::OkStatus();
    }
    const std::string weight = tensor.layer + ".weight";
    const int64_t rows = tensor.shape.size() == 2 ? n : 1;
    const int64_t cols = tensor.shape.back();
    const auto load = [&](const Checkpoint& checkpoint) {
      return checkpoint.LoadTensor(weight, rows, cols, {0, rows}, {0, cols}, DType::kF32);
    };
    const auto a = load(**original);
    const auto b = load(**quantized);
    EXPECT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    if (a.ok() && b.ok()) {
      EXPECT_TRUE(BitwiseEqual(b->view, a->view)) << weight;
    }
    EXPECT_EQ(*(*original)->ExactDType(weight), *(*quantized)->ExactDType(weight));
    return absl::OkStatus();
  };
  EXPECT_TRUE(ForEachModelTensor(config, compare).ok());
}

INSTANTIATE_TEST_SUITE_P(
    Models, RoundTrip,
    ::testing::Values(
        RoundTripCase{"tiny_auto", "tiny-mixtral", {}},
        RoundTripCase{"gqa_tied_bf16_auto", "random-llama-gqa", {.group_size = 32}},
        RoundTripCase{"sharded_bf16_wide",
                      "random-mixtral-gqa",
                      {.group_size = 32, .scales = ScaleChoice::kWide}},
        RoundTripCase{"sharded_f16_folded",
                      "random-llama-mqa",
                      {.group_size = 64, .scales = ScaleChoice::kFolded}},
        RoundTripCase{
            "tied_f32_float", "random-mixtral-mqa", {.scheme = Scheme::kFloat, .group_size = 32}},
        RoundTripCase{"f16_whole_rows", "random-mixtral-mha", {.group_size = 0}},
        RoundTripCase{"f16_none", "random-mixtral-mha", {.scheme = Scheme::kNone}},
        RoundTripCase{"tied_bf16_none", "random-llama-gqa", {.scheme = Scheme::kNone}},
        RoundTripCase{"eight_bits", "random-llama-mha", {.bits = 8, .group_size = 32}},
        RoundTripCase{"fixed_amplifier",
                      "random-llama-mha",
                      {.group_size = 32, .amplifier = {.kind = Amplifier::Kind::kFixed}}},
        RoundTripCase{"heuristic_amplifier",
                      "random-llama-mha",
                      {.group_size = 32, .amplifier = {.kind = Amplifier::Kind::kHeuristic}}},
        RoundTripCase{"clip_search", "random-llama-mha", {.group_size = 32, .clip_search = true}}),
    [](const auto& round_trip) { return round_trip.param.name; });

TEST(QuantizeCheckpoint, CarriesWhatServingNeeds) {
  const TempDirectory directory;
  std::vector<std::string> finished;
  int64_t bytes = 0;
  const auto summary = QuantizeCheckpoint({.model_directory = Data("tiny-mixtral"),
                                           .out_directory = directory / "out",
                                           .spec = {.group_size = 64},
                                           .progress = [&](const QuantizeProgress& progress) {
                                             EXPECT_GT(progress.bytes_done, bytes);
                                             EXPECT_LE(progress.bytes_done, progress.bytes_total);
                                             bytes = progress.bytes_done;
                                             finished.push_back(progress.tensor);
                                           }});
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_THAT(ListNames(directory.path()), ElementsAre("out"));
  EXPECT_THAT(ListNames(directory / "out"), ElementsAre("config.json", "generation_config.json",
                                                        "model.safetensors", "tokenizer.model"));
  EXPECT_EQ(ReadFile(directory / "out/tokenizer.model"),
            ReadFile(Data("tiny-mixtral/tokenizer.model")));
  EXPECT_EQ(summary->num_linear, 4 * (4 + 8 * 3) + 1);
  EXPECT_EQ(summary->num_other, 4 * 3 + 2);
  EXPECT_EQ(summary->bytes_in, 2 * 8136960);
  EXPECT_EQ(summary->bytes_in, bytes);
  EXPECT_EQ(summary->bytes_out,
            static_cast<int64_t>(std::filesystem::file_size(directory / "out/model.safetensors")));
  EXPECT_LT(summary->bytes_out, summary->bytes_in * 2 / 5);
  EXPECT_GT(summary->relative_squared_error, 0.001);
  EXPECT_LT(summary->relative_squared_error, 0.02);
  EXPECT_EQ(finished.size(), static_cast<size_t>(summary->num_linear + summary->num_other));

  const json config = json::parse(ReadFile(directory / "out/config.json"));
  const json& quantization = config["quantization_config"];
  EXPECT_EQ(quantization["quant_method"], "intermix");
  EXPECT_EQ(quantization["format_version"], 1);
  EXPECT_EQ(quantization["scheme"], "integer");
  EXPECT_EQ(quantization["bits"], 4);
  EXPECT_EQ(quantization["group_size"], 64);
  EXPECT_EQ(quantization["scales"], "auto");
  EXPECT_EQ(quantization["amplifier"], "channel");
  EXPECT_EQ(quantization["scale_width"].size(), static_cast<size_t>(summary->num_linear));
  EXPECT_EQ(quantization["scale_width"]["lm_head"], "wide");
  EXPECT_EQ(config["rope_theta"], 10000.0);
}

class QuantizedModel : public ::testing::Test {
 protected:
  QuantizedModel() : out_(directory_ / "out") {
    const absl::Status written = QuantizeTo(Data("random-llama-mha"), out_,
                                            {.group_size = 32, .scales = ScaleChoice::kWide});
    EXPECT_TRUE(written.ok()) << written;
  }

  absl::Status Open() const { return OpenCheckpoint(out_, QuantSpec{}).status(); }
  std::string Refusal() const {
    EXPECT_FALSE(Open().ok());
    return std::string(Open().message());
  }
  absl::Status LoadHead(Slice rows) const {
    const auto checkpoint = OpenCheckpoint(out_, QuantSpec{});
    if (!checkpoint.ok()) return checkpoint.status();
    return (*checkpoint)->LoadLinear("lm_head", 99, 64, rows).status();
  }

  TempDirectory directory_;
  std::string out_;
};

TEST_F(QuantizedModel, SaysWhatItIs) {
  const auto checkpoint = OpenCheckpoint(out_, QuantSpec{});
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->description(), "integer wide W4 g32");
}

TEST_F(QuantizedModel, IsRefusedWithABrokenCertificate) {
  // Row 7 of lm_head: the largest codes and scales sum to more than an int32 holds.
  EditTensors(out_, [](auto& tensors) {
    tensors["lm_head.codes"].bytes.replace(7 * 64, 64, std::string(64, '\x7F'));
    tensors["lm_head.group_scales"].bytes.replace(7 * 4, 4, "\xFF\x7F\xFF\x7F");
  });
  EXPECT_TRUE(LoadHead({0, 7}).ok());
  const absl::Status broken = LoadHead({7, 8});
  EXPECT_FALSE(broken.ok());
  EXPECT_THAT(std::string(broken.message()), AllOf(HasSubstr("lm_head"), HasSubstr("certificate")));
}

TEST_F(QuantizedModel, IsRefusedWhereFoldedScalesAreTooLarge) {
  EditConfig(out_, [](json& config) {
    config["quantization_config"]["scale_width"]["model.layers.0.mlp.up_proj"] = "folded";
  });
  const auto checkpoint = OpenCheckpoint(out_, QuantSpec{});
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto weight = (*checkpoint)->LoadLinear("model.layers.0.mlp.up_proj", 96, 64, {0, 96});
  EXPECT_EQ(weight.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(QuantizedModel, IsRefusedWithAScaleThatIsNotFinite) {
  EditTensors(out_, [](auto& tensors) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(tensors["lm_head.channel_scales"].bytes.data(), &nan, 4);
  });
  EXPECT_THAT(std::string(LoadHead({0, 1}).message()),
              HasSubstr("lm_head.channel_scales holds a scale that is not finite"));
}

TEST_F(QuantizedModel, IsRefusedWhereAPartIsMissingOrWrong) {
  const std::string original = ReadFile(out_ + "/model.safetensors");
  for (const std::string part : {"codes", "group_scales", "channel_scales"}) {
    const std::string name = "model.layers.1.self_attn.q_proj." + part;
    EditTensors(out_, [&](auto& tensors) { tensors.erase(name); });
    EXPECT_THAT(Refusal(), HasSubstr("tensor " + name + " is missing"));
    WriteFile(out_ + "/model.safetensors", original);
    EditTensors(out_, [&](auto& tensors) { tensors[name].shape.push_back(1); });
    EXPECT_THAT(Refusal(), HasSubstr("tensor " + name));
    WriteFile(out_ + "/model.safetensors", original);
  }
  EditTensors(out_, [&](auto& tensors) { tensors["lm_head.codes"].dtype = "U8"; });
  EXPECT_THAT(std::string(LoadHead({0, 1}).message()), HasSubstr("is U8, not I8"));
}

TEST_F(QuantizedModel, IsRefusedWhereItsDescriptionIsWrong) {
  const std::string original = ReadFile(out_ + "/config.json");
  const std::vector<std::pair<std::string, json>> bad = {{"format_version", 2},
                                                         {"format_version", "1"},
                                                         {"scheme", "magic"},
                                                         {"bits", 5},
                                                         {"bits", 1LL << 40},
                                                         {"group_size", 33},
                                                         {"group_size", -32},
                                                         {"group_size", 128},
                                                         {"scales", "narrow"},
                                                         {"amplifier", "1000"},
                                                         {"amplifier", 7},
                                                         {"scale_width", nullptr},
                                                         {"scale_width", "wide"},
                                                         {"lm_head_bits", 4},
                                                         {"scale_width", json::object()}};
  for (const auto& [field, value] : bad) {
    EditConfig(out_, [field = field, value = value](json& config) {
      config["quantization_config"][field] = value;
    });
    EXPECT_FALSE(Open().ok()) << field << " " << value;
    WriteFile(out_ + "/config.json", original);
  }
  EditConfig(out_, [](json& config) {
    config["quantization_config"]["scale_width"]["lm_head"] = "narrow";
  });
  EXPECT_THAT(Refusal(), HasSubstr(R"("lm_head" is "narrow")"));
  WriteFile(out_ + "/config.json", original);
  EXPECT_TRUE(Open().ok());
}

TEST_F(QuantizedModel, IsNotQuantisedAgain) {
  const absl::Status again = QuantizeTo(out_, directory_ / "again", {.group_size = 32});
  EXPECT_THAT(std::string(again.message()), HasSubstr("is quantised already"));
  EXPECT_THAT(ListNames(directory_.path()), ElementsAre("out"));
}

TEST_F(QuantizedModel, IsReplacedOnlyByForce) {
  const QuantSpec folded{.group_size = 32, .scales = ScaleChoice::kFolded};
  const std::string model = Data("random-llama-mha");
  const std::string before = ReadFile(out_ + "/config.json");
  EXPECT_THAT(std::string(QuantizeTo(model, out_, folded).message()),
              HasSubstr("is not empty; use --force"));
  EXPECT_EQ(ReadFile(out_ + "/config.json"), before);
  const absl::Status forced = QuantizeTo(model, out_ + "/", folded, /*force=*/true);
  EXPECT_TRUE(forced.ok()) << forced;
  EXPECT_EQ((*OpenCheckpoint(out_, QuantSpec{}))->description(), "integer folded W4 g32");
  EXPECT_THAT(ListNames(directory_.path()), ElementsAre("out"));
}

TEST_F(QuantizedModel, IsNotReplacedWhereItHoldsOtherThings) {
  WriteFile(out_ + "/thesis.tex", "years of work");
  const absl::Status forced =
      QuantizeTo(Data("random-llama-mha"), out_, {.group_size = 32}, /*force=*/true);
  EXPECT_EQ(forced.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadFile(out_ + "/thesis.tex"), "years of work");
  EXPECT_TRUE(Open().ok());
}

TEST(QuantizeCheckpoint, NeverReplacesTheOriginal) {
  const TempDirectory directory;
  CopyModel("random-llama-mha", directory / "model");
  const std::string before = ReadFile(directory / "model/model.safetensors");
  const QuantSpec spec{.group_size = 32};
  for (const std::string out : {"model", "model/../model/", "."}) {
    EXPECT_EQ(QuantizeTo(directory / "model", directory / out, spec, /*force=*/true).code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(ReadFile(directory / "model/model.safetensors"), before);
  EXPECT_THAT(ListNames(directory.path()), ElementsAre("model"));
}

TEST(QuantizeCheckpoint, LeavesNothingBehindWhenCancelled) {
  const TempDirectory directory;
  int asked = 0;
  const auto summary = QuantizeCheckpoint({.model_directory = Data("random-llama-mha"),
                                           .out_directory = directory / "new/out",
                                           .spec = {.group_size = 32},
                                           .cancelled = [&asked] { return ++asked == 5; }});
  EXPECT_EQ(summary.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(asked, 5);
  EXPECT_THAT(ListNames(directory / "new"), ElementsAre());
}

TEST(QuantizeCheckpoint, LeavesNothingBehindWhenATensorIsBad) {
  const TempDirectory directory;
  CopyModel("random-llama-mha", directory / "model");
  EditTensors(directory / "model", [](auto& tensors) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(tensors["lm_head.weight"].bytes.data(), &nan, 4);
  });
  const absl::Status status =
      QuantizeTo(directory / "model", directory / "out", {.group_size = 32});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("lm_head.weight"));
  EXPECT_THAT(ListNames(directory.path()), ElementsAre("model"));
}

TEST(OutputDirectory, ClearsAwayWhatAKilledRunLeft) {
  const TempDirectory directory;
  std::filesystem::create_directories(directory / "out.partial");
  WriteFile(directory / "out.partial/model.safetensors.tmp", "half");
  const absl::Status status =
      QuantizeTo(Data("random-llama-mha"), directory / "out", {.group_size = 32});
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(ListNames(directory.path()), ElementsAre("out"));
}

TEST(OutputDirectory, KeepsWhatIsNotOurs) {
  const TempDirectory directory;
  std::filesystem::create_directories(directory / "out.partial");
  WriteFile(directory / "out.partial/thesis.tex", "years of work");
  EXPECT_EQ(OutputDirectory::Create(directory / "out", false).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadFile(directory / "out.partial/thesis.tex"), "years of work");
  WriteFile(directory / "file", "");
  EXPECT_EQ(OutputDirectory::Create(directory / "file", true).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(OutputDirectory, BelongsToOneWriter) {
  const TempDirectory directory;
  const auto first = OutputDirectory::Create(directory / "out", false);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = OutputDirectory::Create(directory / "out", false);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another program"));
  EXPECT_TRUE((*first)->Commit().ok());
}

TEST(QuantizationConfig, ReadsWhatItWrites) {
  QuantizationConfig config{.spec = {.group_size = 0, .amplifier = {.value = 1024}}};
  config.spec.amplifier.kind = Amplifier::Kind::kFixed;
  config.scale_width = {{"a", ScaleWidth::kFolded}, {"b", ScaleWidth::kWide}};
  const auto read = QuantizationConfig::FromJson(config.ToJson());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->ToJson(), config.ToJson());
  EXPECT_EQ(read->FormatOf("a", 96)->group_size, 96);
  EXPECT_EQ(read->FormatOf("b", 96)->scale_width, ScaleWidth::kWide);
  EXPECT_THAT(std::string(read->FormatOf("c", 96).status().message()), HasSubstr("layer c"));
}

}  // namespace
}  // namespace intermix
