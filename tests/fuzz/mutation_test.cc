// A few thousand seeded mutations of valid files: each must be accepted or refused, never crash.
// The same mutations on every machine; AddressSanitizer sees what a plain build would not.
#include <algorithm>
#include <iterator>
#include <map>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/targets.h"
#include "tests/testing/model_files.h"
#include "tests/testing/random.h"
#include "tests/testing/test_paths.h"

namespace intermix {
namespace {

using Target = bool (*)(std::span<const uint8_t>);

struct Outcome {
  int accepted = 0;
  int refused = 0;
};

// What JSON and binary lengths are sensitive to.
constexpr const char* kTokens[] = {"-1",
                                   "0",
                                   "18446744073709551615",
                                   "9223372036854775807",
                                   "1e9",
                                   "[",
                                   "]",
                                   "{",
                                   "}",
                                   "\"",
                                   ",",
                                   "null",
                                   "true",
                                   ":",
                                   "4294967296",
                                   "\\u0000"};

// One change in the first `reach` bytes: a byte, a bit, a deletion, a copy of another piece, a
// token.
void Mutate(std::string& bytes, Random& random, int64_t reach) {
  if (bytes.empty()) return;
  const int64_t last = std::min<int64_t>(static_cast<int64_t>(bytes.size()), reach) - 1;
  const size_t at = static_cast<size_t>(random.Int(0, last));
  const size_t length = static_cast<size_t>(random.Int(1, 12));
  switch (random.Int(0, 6)) {
    case 0:
      bytes[at] = static_cast<char>(random.Int(0, 255));
      break;
    case 1:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.Int(0, 7)));
      break;
    case 2:
      bytes.erase(at, length);
      break;
    case 3:
      bytes.insert(at, bytes.substr(static_cast<size_t>(random.Int(0, last)), length));
      break;
    case 4:
      bytes.insert(at, kTokens[random.Int(0, std::size(kTokens) - 1)]);
      break;
    case 5: {  // the number that stands there, if one does
      size_t end = at;
      while (end < bytes.size() && bytes[end] >= '0' && bytes[end] <= '9') ++end;
      if (end > at) bytes.replace(at, end - at, kTokens[random.Int(0, 4)]);
      break;
    }
    default:
      bytes.resize(at);
      break;
  }
}

Outcome RunMutations(Target target, const std::string& valid, int count, int64_t reach) {
  const auto accepts = [target](const std::string& bytes) {
    return target({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  };
  EXPECT_TRUE(accepts(valid));
  Outcome outcome;
  for (int seed = 0; seed < count; ++seed) {
    Random random(static_cast<uint64_t>(seed));
    std::string bytes = valid;
    for (int64_t changes = random.Int(1, 3); changes > 0; --changes) Mutate(bytes, random, reach);
    ++(accepts(bytes) ? outcome.accepted : outcome.refused);
  }
  return outcome;
}

TEST(Mutation, SafetensorsAreAcceptedOrRefused) {
  std::map<std::string, FileTensor> tensors;
  tensors["model.norm.weight"] = {"BF16", {7}, std::string(14, 'n')};
  tensors["lm_head.weight"] = {"F32", {3, 5}, std::string(60, 'h')};
  tensors["lm_head.codes"] = {"U8", {4, 2, 1}, std::string(8, 'c')};
  tensors["empty"] = {"I64", {0}, ""};
  const std::string valid = EncodeSafetensors(tensors);
  const Outcome outcome = RunMutations(&fuzz::Safetensors, valid, 4000, valid.size());
  EXPECT_GT(outcome.accepted, 100);  // changes to data and names
  EXPECT_GT(outcome.refused, 2000);
}

TEST(Mutation, ConfigsAreAcceptedOrRefused) {
  for (const char* model : {"tiny-mixtral", "random-llama-gqa", "random-mixtral-mha"}) {
    nlohmann::json config =
        nlohmann::json::parse(ReadFile(TestData() + "/" + model + "/config.json"));
    config["quantization_config"] = {{"quant_method", "intermix"},
                                     {"format_version", 1},
                                     {"scheme", "integer"},
                                     {"bits", 4},
                                     {"lm_head_bits", 8},
                                     {"group_size", 32},
                                     {"scales", "auto"},
                                     {"amplifier", "1024"},
                                     {"scale_width", {{"lm_head", "wide"}}}};
    const std::string valid = config.dump(1);
    const Outcome outcome =
        RunMutations(&fuzz::Config, valid, 3000, static_cast<int64_t>(valid.size()));
    EXPECT_GT(outcome.accepted, 100) << model;
    EXPECT_GT(outcome.refused, 1000) << model;
  }
}

// The first 300 pieces of tiny-mixtral's tokenizer (special tokens, bytes, some words), an optional
// table of normalisations, and its settings: small enough for a mutation to matter.
std::string SmallTokenizer() {
  const std::string whole = ReadFile(TestData() + "/tiny-mixtral/tokenizer.model");
  const auto after = [&whole](size_t at) { return at + 2 + static_cast<uint8_t>(whole[at + 1]); };
  size_t end = 0;
  for (int piece = 0; piece < 300; ++piece) end = after(end);
  size_t settings = end;
  while (whole[settings] == '\x0A') settings = after(settings);
  return whole.substr(0, end) + whole.substr(settings);
}

TEST(Mutation, TokenizersAreAcceptedOrRefused) {
  const std::string valid = SmallTokenizer();
  const Outcome outcome =
      RunMutations(&fuzz::Tokenizer, valid, 3000, static_cast<int64_t>(valid.size()));
  EXPECT_GT(outcome.accepted, 100);
  EXPECT_GT(outcome.refused, 1000);
}

// A table of 256 trie units, of which 'e' and '\xE2' lead somewhere, and the texts they lead to.
std::string TokenizerWithTable() {
  std::string table(4 + 1024, '\0');
  const auto set = [&table](size_t unit, uint32_t value) {
    for (int i = 0; i < 4; ++i) table[4 + 4 * unit + i] = static_cast<char>(value >> (8 * i));
  };
  table[1] = 4;  // 1024 bytes of trie
  set(0, 1u << 10);
  set('e' ^ 1, 2u << 10 | 0x100 | 'e');
  set('e' ^ 1 ^ 2, 0x80000000u);
  set(0xE2 ^ 1, 4u << 10 | 0x100 | 0xE2);
  set(0xE2 ^ 1 ^ 4, 0x80000002u);
  table += std::string("E\0\xE2\x82\xAC\0", 6);
  const auto field = [](char tag, const std::string& bytes) {
    return std::string{tag, static_cast<char>((bytes.size() & 0x7F) | 0x80),
                       static_cast<char>(bytes.size() >> 7)} +
           bytes;
  };
  return field('\x1A', field('\x12', table)) + SmallTokenizer();
}

TEST(Mutation, TablesOfNormalisationsAreAcceptedOrRefused) {
  const Outcome outcome = RunMutations(&fuzz::Tokenizer, TokenizerWithTable(), 3000, 1040);
  EXPECT_GT(outcome.accepted, 100);
  EXPECT_GT(outcome.refused, 1000);
}

TEST(Mutation, TokenizerJsonsAreAcceptedOrRefused) {
  for (const char* model : {"gpt2", "llama3", "smollm2"}) {
    const std::string valid = ReadFile(TestData() + "/bpe/" + model + "/tokenizer.json");
    // What comes before the vocabulary, and after it, is where the structure is.
    const nlohmann::json parsed = nlohmann::json::parse(valid);
    nlohmann::ordered_json settings_first;
    for (const auto& [name, value] : parsed.items()) {
      if (name != "model") settings_first[name] = value;
    }
    settings_first["model"] = parsed["model"];
    const std::string bytes = settings_first.dump();
    const auto reach = static_cast<int64_t>(bytes.size());
    const Outcome everywhere = RunMutations(&fuzz::TokenizerJson, bytes, 1000, reach);
    EXPECT_GT(everywhere.accepted, 20) << model;
    EXPECT_GT(everywhere.refused, 300) << model;
    const auto settings = static_cast<int64_t>(bytes.find("\"model\""));
    const Outcome in_settings = RunMutations(&fuzz::TokenizerJson, bytes, 1000, settings);
    EXPECT_GT(in_settings.accepted, 20) << model;
    EXPECT_GT(in_settings.refused, 300) << model;
  }
}

}  // namespace
}  // namespace intermix
