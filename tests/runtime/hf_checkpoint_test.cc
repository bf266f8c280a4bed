// Hugging Face directories: what is read equals what an independent reader reads, every slice
// equals the rows of the whole, and each kind of bad input is refused with a sentence that names
// it.
#include "runtime/checkpoint/hf_checkpoint.h"

#include <bit>
#include <cstring>
#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint/model_tensors.h"
#include "runtime/checkpoint/quantize_tensor.h"
#include "tests/testing/compare.h"
#include "tests/testing/model_files.h"
#include "tests/testing/random.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

const std::string kTiny = TestData() + "/tiny-mixtral";

const QuantSpec kNoQuantisation{.scheme = Scheme::kNone};
const QuantSpec kGroups32{.group_size = 32};

std::unique_ptr<Checkpoint> Open(const std::string& directory, const QuantSpec& spec) {
  auto checkpoint = OpenCheckpoint(directory, spec);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *std::move(checkpoint) : nullptr;
}

std::string Refusal(const std::string& directory, const QuantSpec& spec = kGroups32) {
  const auto checkpoint = OpenCheckpoint(directory, spec);
  EXPECT_FALSE(checkpoint.ok());
  return std::string(checkpoint.status().message());
}

// The whole of every model's files, by an independent reader.
std::map<std::string, FileTensor> AllTensors(const std::string& directory) {
  std::map<std::string, FileTensor> all;
  for (const std::string& name : ListNames(directory)) {
    if (std::filesystem::path(name).extension() != ".safetensors") continue;
    all.merge(DecodeSafetensors(ReadFile(directory + "/" + name)));
  }
  return all;
}

// The float32 value of element `i`.
float ValueAt(const FileTensor& tensor, size_t i) {
  if (tensor.dtype == "F32") {
    float value = 0;
    std::memcpy(&value, tensor.bytes.data() + 4 * i, 4);
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, tensor.bytes.data() + 2 * i, 2);
  return tensor.dtype == "F16" ? HalfToFloat(bits) : static_cast<float>(BFloat16::FromBits(bits));
}

bool SameWeight(const QuantizedWeight& a, const QuantizedWeight& b) {
  const auto same = [](const Tensor& x, const Tensor& y) {
    return x.empty() == y.empty() && (x.empty() || BitwiseEqual(x, y));
  };
  return a.format == b.format && a.n == b.n && a.k == b.k && same(a.codes, b.codes) &&
         same(a.group_scales, b.group_scales) && same(a.channel_scales, b.channel_scales);
}

TEST(HfCheckpoint, LoadsTheValuesOfTheFile) {
  for (const std::string name : {"tiny-mixtral", "random-llama-gqa", "random-llama-mqa",
                                 "random-mixtral-gqa", "random-mixtral-mqa"}) {
    const std::string directory = TestData() + "/" + name;
    const auto checkpoint = Open(directory, kNoQuantisation);
    const auto tensors = AllTensors(directory);
    for (const std::string tensor : {"model.embed_tokens.weight", "model.norm.weight"}) {
      const FileTensor& expected = tensors.at(tensor);
      const int64_t k = expected.shape.back();
      const int64_t n = expected.shape.size() == 1 ? 1 : expected.shape[0];
      const auto loaded = checkpoint->LoadTensor(tensor, n, k, {.begin = 0, .end = n},
                                                 {.begin = 0, .end = k}, DType::kF32);
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      ASSERT_EQ(loaded->view.num_elements(), n * k);
      EXPECT_EQ(loaded->view.rank(), static_cast<int>(expected.shape.size()));
      for (int64_t i = 0; i < n * k; ++i) {
        ASSERT_EQ(loaded->view.data<float>()[i], ValueAt(expected, i)) << tensor << " " << i;
      }
      EXPECT_EQ(*checkpoint->ExactDType(tensor),
                expected.dtype == "BF16" ? DType::kBF16 : DType::kF32);
    }
    const std::string layer = "model.layers.1.self_attn.k_proj";
    const FileTensor& expected = tensors.at(layer + ".weight");
    const int64_t n = expected.shape[0];
    const auto weight = checkpoint->LoadLinear(layer, n, expected.shape[1], {.begin = 1, .end = n});
    ASSERT_TRUE(weight.ok()) << weight.status();
    ASSERT_EQ(weight->codes.rows(), n - 1);
    for (int64_t i = 0; i < weight->codes.num_elements(); ++i) {
      const float value = weight->codes.dtype() == DType::kF32
                              ? weight->codes.data<float>()[i]
                              : static_cast<float>(weight->codes.data<BFloat16>()[i]);
      ASSERT_EQ(value, ValueAt(expected, i + expected.shape[1])) << name << " " << i;
    }
  }
}

TEST(HfCheckpoint, SlicesTensorsByRowsAndColumns) {
  const auto checkpoint = Open(kTiny, kNoQuantisation);
  const std::string name = "model.embed_tokens.weight";
  const auto load = [&](Slice rows, Slice cols, DType dtype) {
    auto tensor = checkpoint->LoadTensor(name, 2048, 256, rows, cols, dtype);
    EXPECT_TRUE(tensor.ok()) << tensor.status();
    return *std::move(tensor);
  };
  const OwnedTensor whole = load({0, 2048}, {0, 256}, DType::kBF16);
  const OwnedTensor slice = load({100, 117}, {64, 128}, DType::kBF16);
  EXPECT_TRUE(BitwiseEqual(slice.view, whole.view.Rows(100, 117).Cols(64, 128)));
  const OwnedTensor wide = load({100, 117}, {64, 128}, DType::kF32);
  EXPECT_EQ(wide.view.row<float>(3)[5], static_cast<float>(whole.view.row<BFloat16>(103)[69]));
  for (const auto& [rows, cols] : {std::pair<Slice, Slice>{{0, 2049}, {0, 256}},
                                   {{-1, 3}, {0, 256}},
                                   {{0, 1}, {0, 257}},
                                   {{0, 1}, {9, 8}}}) {
    EXPECT_EQ(checkpoint->LoadTensor(name, 2048, 256, rows, cols, DType::kF32).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(HfCheckpoint, RefusesADTypeThatWouldRound) {
  const auto checkpoint = Open(TestData() + "/random-llama-mqa", kNoQuantisation);
  const auto tensor =
      checkpoint->LoadTensor("model.norm.weight", 1, 64, {0, 1}, {0, 64}, DType::kBF16);
  EXPECT_EQ(tensor.status().code(), absl::StatusCode::kInvalidArgument);
}

// Every way to cut 2, 3 or 4 parts, for every scheme and every choice of scales.
TEST(HfCheckpoint, SlicesOfLinearLayersAreRowsOfTheWhole) {
  const std::string layer = "model.layers.2.block_sparse_moe.experts.5.w1";
  for (const QuantSpec& spec :
       {QuantSpec{}, QuantSpec{.group_size = 32, .scales = ScaleChoice::kFolded},
        QuantSpec{.group_size = 64, .scales = ScaleChoice::kWide},
        QuantSpec{.amplifier = {.kind = Amplifier::Kind::kHeuristic}},
        QuantSpec{.amplifier = {.kind = Amplifier::Kind::kFixed}}, QuantSpec{.bits = 8},
        QuantSpec{.scheme = Scheme::kFloat}, QuantSpec{.group_size = 0}, kNoQuantisation}) {
    const auto checkpoint = Open(kTiny, spec);
    const auto whole = checkpoint->LoadLinear(layer, 256, 256, {0, 256});
    ASSERT_TRUE(whole.ok()) << whole.status();
    for (int parts : {2, 3, 4}) {
      for (int part = 0; part < parts; ++part) {
        const Slice rows = Part(256, parts, part);
        const auto slice = checkpoint->LoadLinear(layer, 256, 256, rows);
        ASSERT_TRUE(slice.ok()) << slice.status();
        EXPECT_TRUE(SameWeight(*slice, whole->RowSlice(rows.begin, rows.end)))
            << spec.group_size << " part " << part << " of " << parts;
      }
    }
  }
}

// Half of the rows alone would choose folded scales (or one amplifier), the other half the other.
TEST(HfCheckpoint, SlicesFollowTheChoiceOfTheWholeTensor) {
  const TempDirectory directory;
  CopyModel("tiny-mixtral", directory.path());
  const std::string layer = "model.layers.0.self_attn.q_proj";
  const OwnedTensor weight = RandomTensor(DType::kBF16, {256, 256}, 3);
  for (int64_t n = 0; n < 256; ++n) {
    // Rows of one size; and rows of one large group among small ones, which need wide scales.
    for (int64_t k = 0; k < 256; ++k) {
      BFloat16& value = weight.view.row<BFloat16>(n)[k];
      value = BFloat16(static_cast<float>(value) * (n < 128 ? 8 : k < 32 ? 32 : 1));
    }
  }
  EditTensors(directory.path(), [&](auto& tensors) {
    tensors[layer + ".weight"].bytes.assign(static_cast<const char*>(weight.view.raw()),
                                            static_cast<size_t>(weight.view.bytes()));
  });
  const Amplifier heuristic{.kind = Amplifier::Kind::kHeuristic};
  for (const QuantSpec& spec : {kGroups32, QuantSpec{.group_size = 32, .amplifier = heuristic}}) {
    const auto checkpoint = Open(directory.path(), spec);
    const auto whole = checkpoint->LoadLinear(layer, 256, 256, {0, 256});
    ASSERT_TRUE(whole.ok()) << whole.status();
    int alone = 0;  // halves that quantised alone would be the same
    for (const Slice rows : {Slice{0, 128}, Slice{128, 256}}) {
      const auto slice = checkpoint->LoadLinear(layer, 256, 256, rows);
      ASSERT_TRUE(slice.ok()) << slice.status();
      EXPECT_TRUE(SameWeight(*slice, whole->RowSlice(rows.begin, rows.end)));
      const auto own = Quantize(weight.view.Rows(rows.begin, rows.end), spec, "half");
      ASSERT_TRUE(own.ok()) << own.status();
      alone += SameWeight(*slice, *own);
    }
    EXPECT_EQ(alone, 1) << "the tensor does not tell a choice per tensor from one per slice";
  }
}

TEST(HfCheckpoint, QuantisesLikeTheKernelLibrary) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {700, 512}, 1);  // several chunks of rows
  for (ScaleChoice scales : {ScaleChoice::kAuto, ScaleChoice::kFolded, ScaleChoice::kWide}) {
    const QuantSpec spec{.group_size = 64, .scales = scales};
    const auto chunked = QuantizeTensor(weight.view, spec, "w");
    const auto direct = Quantize(weight.view, spec, "w");
    ASSERT_TRUE(chunked.ok() && direct.ok());
    EXPECT_TRUE(SameWeight(*chunked, *direct));
    const WeightError error = MeasureError(weight.view, *chunked);
    EXPECT_NEAR(error.squared_error, SquaredError(weight.view, *direct),
                1e-9 * error.squared_error);
    EXPECT_GT(error.squared_norm, error.squared_error);
  }
}

TEST(HfCheckpoint, NamesTheRowOfTheWholeTensorThatHoldsANaN) {
  const OwnedTensor weight = RandomTensor(DType::kF32, {700, 512}, 1);
  weight.view.row<float>(600)[3] = std::numeric_limits<float>::quiet_NaN();
  const auto quantized = QuantizeTensor(weight.view, kGroups32, "layer");
  EXPECT_EQ(quantized.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(quantized.status().message()), HasSubstr("row 600"));
}

TEST(HfCheckpoint, PadsTheVocabularyWithZeroRows) {
  // 97 tokens over 4 ranks: 25 rows each, the last 3 of the last rank are padding.
  for (const QuantSpec& spec : {kGroups32, kNoQuantisation}) {
    const auto checkpoint = Open(TestData() + "/random-mixtral-gqa", spec);
    const auto whole = checkpoint->LoadLinear("lm_head", 97, 64, {0, 97});
    const auto last = checkpoint->LoadLinear("lm_head", 97, 64, {75, 100});
    const auto beyond = checkpoint->LoadLinear("lm_head", 97, 64, {100, 103});
    ASSERT_TRUE(whole.ok() && last.ok() && beyond.ok());
    EXPECT_EQ(last->n, 25);
    EXPECT_TRUE(SameWeight(last->RowSlice(0, 22), whole->RowSlice(75, 97)));
    EXPECT_TRUE(SameWeight(last->RowSlice(22, 25), *beyond));
    for (int64_t n = 0; n < 3; ++n) {
      for (int64_t k = 0; k < 64; ++k) {
        ASSERT_EQ(
            spec.scheme == Scheme::kNone ? ElementAt(beyond->codes, n, k) : CodeAt(*beyond, n, k),
            0);
      }
    }
  }
}

TEST(HfCheckpoint, LmHeadHasEightBitsWhateverTheLayersHave) {
  const QuantSpec spec{.group_size = 32, .scales = ScaleChoice::kFolded};
  const auto checkpoint = Open(TestData() + "/random-mixtral-gqa", spec);
  const auto head = checkpoint->LoadLinear("lm_head", 97, 64, {0, 97});
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(head->format, (WeightFormat{.scheme = Scheme::kInteger,
                                        .scale_width = ScaleWidth::kWide,
                                        .bits = 8,
                                        .group_size = 32}));
}

TEST(HfCheckpoint, ATiedLmHeadIsTheEmbedding) {
  const auto checkpoint = Open(TestData() + "/random-llama-gqa", kNoQuantisation);
  ASSERT_TRUE(checkpoint->config().tie_word_embeddings);
  const auto head = checkpoint->LoadLinear("lm_head", 111, 128, {0, 111});
  const auto table = checkpoint->LoadTensor("model.embed_tokens.weight", 111, 128, {0, 111},
                                            {0, 128}, DType::kBF16);
  ASSERT_TRUE(head.ok() && table.ok());
  EXPECT_TRUE(BitwiseEqual(head->codes, table->view));
}

TEST(HfCheckpoint, ReadsAFileWhoseTensorsAreNotAligned) {
  const TempDirectory directory;
  CopyModel("random-llama-mha", directory.path());
  const auto tensors = DecodeSafetensors(ReadFile(directory / "model.safetensors"));
  const auto aligned = Open(directory.path(), kGroups32);
  const auto expected = aligned->LoadLinear("lm_head", 99, 64, {3, 99});
  const std::string path = directory / "odd/model.safetensors";
  CopyModel("random-llama-mha", directory / "odd");
  std::string bytes = EncodeSafetensors(tensors);
  for (int padding = 0; bytes.size() % 4 != 1; ++padding) {
    bytes = EncodeSafetensors(tensors, padding);
  }
  WriteFile(path, bytes);
  const auto odd = Open(directory / "odd", kGroups32);
  const auto actual = odd->LoadLinear("lm_head", 99, 64, {3, 99});
  ASSERT_TRUE(expected.ok() && actual.ok());
  EXPECT_TRUE(SameWeight(*actual, *expected));
}

TEST(HfCheckpoint, GenerationConfigSaysWhatEndsAText) {
  const TempDirectory directory;
  CopyModel("random-llama-mha", directory.path());
  WriteFile(directory / "generation_config.json", R"({"eos_token_id": [5, 7]})");
  EXPECT_THAT(Open(directory.path(), kGroups32)->config().eos_token_ids,
              ::testing::ElementsAre(5, 7));
  WriteFile(directory / "generation_config.json", R"({"eos_token_id": 99})");
  EXPECT_THAT(Refusal(directory.path()), HasSubstr("generation_config.json: eos_token_id is 99"));
}

class BadModel : public ::testing::Test {
 protected:
  BadModel() { CopyModel("random-llama-mha", directory_.path()); }

  TempDirectory directory_;
};

TEST_F(BadModel, IsRefusedWhereATensorIsMissing) {
  EditTensors(directory_.path(),
              [](auto& tensors) { tensors.erase("model.layers.1.mlp.up_proj.weight"); });
  EXPECT_THAT(Refusal(directory_.path()),
              HasSubstr("tensor model.layers.1.mlp.up_proj.weight is missing"));
}

TEST_F(BadModel, IsRefusedWhereAShapeIsWrong) {
  EditTensors(directory_.path(), [](auto& tensors) {
    tensors["model.layers.1.mlp.up_proj.weight"].shape = {64, 96};
  });
  EXPECT_THAT(Refusal(directory_.path()),
              AllOf(HasSubstr("model.layers.1.mlp.up_proj.weight"), HasSubstr("[64, 96]"),
                    HasSubstr("config.json asks for [96, 64]")));
}

TEST_F(BadModel, IsRefusedWhereADTypeIsWrong) {
  EditTensors(directory_.path(), [](auto& tensors) { tensors["model.norm.weight"].dtype = "I32"; });
  EXPECT_THAT(Refusal(directory_.path()),
              AllOf(HasSubstr("model.norm.weight"), HasSubstr("is I32, not BF16 or F32 or F16")));
}

TEST_F(BadModel, IsRefusedWhereAFileIsTruncated) {
  const std::string path = directory_ / "model.safetensors";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  EXPECT_THAT(Refusal(directory_.path()), AllOf(HasSubstr(path), HasSubstr("truncated")));
}

TEST_F(BadModel, IsRefusedWhereGroupsDoNotDivide) {
  EXPECT_EQ(Refusal(directory_.path(), QuantSpec{.group_size = 128}),
            "hidden_size 64 is not a multiple of group size 128; use 32");
  EXPECT_EQ(Refusal(directory_.path(), QuantSpec{.group_size = 64}),
            "intermediate_size 96 is not a multiple of group size 64; use 32");
  EXPECT_EQ(Refusal(TestData() + "/random-mixtral-mha", kGroups32),
            "intermediate_size 48 is not a multiple of group size 32; use 0, one group for a whole "
            "row");
}

TEST_F(BadModel, IsRefusedWhereAFileIsNotThere) {
  std::filesystem::remove(directory_ / "model.safetensors");
  EXPECT_THAT(Refusal(directory_.path()), HasSubstr("neither model.safetensors nor"));
  std::filesystem::remove(directory_ / "config.json");
  EXPECT_THAT(Refusal(directory_.path()), HasSubstr("config.json"));
  EXPECT_THAT(Refusal(directory_ / "no"), HasSubstr("there is no model directory"));
}

TEST_F(BadModel, IsRefusedWhereTheConfigIsNotJson) {
  WriteFile(directory_ / "config.json", "{");
  EXPECT_THAT(Refusal(directory_.path()), HasSubstr("config.json is not JSON"));
}

TEST_F(BadModel, IsRefusedWhereAnotherProgramQuantisedIt) {
  EditConfig(directory_.path(), [](nlohmann::json& config) {
    config["quantization_config"] = {{"quant_method", "gptq"}};
  });
  EXPECT_THAT(Refusal(directory_.path()), HasSubstr(R"(quantised by "gptq")"));
}

TEST_F(BadModel, IsRefusedWhereTheIndexIsWrong) {
  CopyModel("random-llama-mqa", directory_ / "sharded");
  const std::string directory = directory_ / "sharded";
  const std::string path = directory + "/model.safetensors.index.json";
  const nlohmann::json good = nlohmann::json::parse(ReadFile(path));
  const auto refusal_with = [&](const nlohmann::json& file) {
    nlohmann::json bad = good;
    bad["weight_map"]["model.norm.weight"] = file;
    WriteFile(path, bad.dump());
    return Refusal(directory);
  };
  EXPECT_THAT(refusal_with("../model.safetensors"), HasSubstr("not a file name"));
  EXPECT_THAT(refusal_with(7), HasSubstr("not a file name"));
  EXPECT_THAT(refusal_with("no.safetensors"), HasSubstr("no.safetensors"));
  const std::string other =
      good["weight_map"]["model.norm.weight"] == "model-00001-of-00002.safetensors"
          ? "model-00002-of-00002.safetensors"
          : "model-00001-of-00002.safetensors";
  EXPECT_THAT(refusal_with(other), HasSubstr("where the index says it is"));
  WriteFile(path, "{}");
  EXPECT_THAT(Refusal(directory), HasSubstr("weight_map is missing"));
}

TEST_F(BadModel, IsRefusedWhereAWeightHoldsAnInfinity) {
  EditTensors(directory_.path(), [](auto& tensors) {
    const float infinity = std::numeric_limits<float>::infinity();
    std::memcpy(tensors["lm_head.weight"].bytes.data(), &infinity, 4);
  });
  const auto checkpoint = Open(directory_.path(), kGroups32);
  const auto head = checkpoint->LoadLinear("lm_head", 99, 64, {0, 10});
  EXPECT_EQ(head.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(head.status().message()), HasSubstr("lm_head"));
  EXPECT_TRUE(checkpoint->LoadLinear("lm_head", 99, 64, {1, 10}).ok()) << "reads its rows only";
}

TEST_F(BadModel, RefusesLayersAndShapesThatAreNotThere) {
  const auto checkpoint = Open(directory_.path(), kGroups32);
  EXPECT_EQ(checkpoint->LoadLinear("model.layers.9.mlp.up_proj", 96, 64, {0, 1}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(checkpoint->LoadLinear("lm_head", 98, 64, {0, 1}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(checkpoint->LoadLinear("lm_head", 99, 64, {-1, 1}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(checkpoint->LoadLinear("lm_head", 99, 64, {2, 1}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace intermix
