#include <cstdio>
#include <fstream>

#include "kernels/core/check.h"
#include "nlohmann/json.hpp"
#include "tests/kernels/cuda/fragments.h"

namespace intermix::cuda {
namespace {

// [32 lanes]: each lane's words as one string of hex digits.
nlohmann::json ToLanes(const std::vector<uint32_t>& words) {
  nlohmann::json lanes = nlohmann::json::array();
  const size_t per_lane = words.size() / 32;
  for (size_t lane = 0; lane < 32; ++lane) {
    std::string text;
    for (size_t i = 0; i < per_lane; ++i) {
      char word[9];
      std::snprintf(word, sizeof(word), "%08x", words[lane * per_lane + i]);
      text += word;
    }
    lanes.push_back(text);
  }
  return lanes;
}

std::vector<uint32_t> FromLanes(const nlohmann::json& lanes) {
  std::vector<uint32_t> words;
  for (const std::string text : lanes) {
    for (size_t i = 0; i < text.size(); i += 8) {
      words.push_back(static_cast<uint32_t>(std::stoul(text.substr(i, 8), nullptr, 16)));
    }
  }
  return words;
}

}  // namespace

Fragment FragmentOf(const std::string& instruction) {
  if (instruction == "mma_m16n8k32_s8") return Fragment::kMmaS8;
  if (instruction == "mma_m16n8k32_u8_s8") return Fragment::kMmaU8S8;
  if (instruction == "mma_m16n8k16_bf16") return Fragment::kMmaBf16;
  if (instruction == "ldmatrix_x4") return Fragment::kLdmatrix;
  CHECK_EQ(instruction, std::string("ldmatrix_x4_trans"));
  return Fragment::kLdmatrixTrans;
}

const Product* FindProduct(const std::string& instruction) {
  for (const Product& product : kProducts) {
    if (instruction == product.instruction) return &product;
  }
  return nullptr;
}

std::vector<FragmentCase> ReadFragmentCases(const std::string& path) {
  std::ifstream file(path);
  const nlohmann::json root = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  CHECK(root.is_object()) << path << " is not JSON";
  std::vector<FragmentCase> cases;
  for (const nlohmann::json& one : root["cases"]) {
    cases.push_back({.instruction = one["instruction"],
                     .in = FromLanes(one["in"]),
                     .out = FromLanes(one["out"])});
  }
  return cases;
}

void WriteFragmentCases(const std::string& path, const std::string& device,
                        const std::vector<FragmentCase>& cases) {
  nlohmann::json root = {{"device", device}, {"cases", nlohmann::json::array()}};
  for (const FragmentCase& one : cases) {
    root["cases"].push_back(
        {{"instruction", one.instruction}, {"in", ToLanes(one.in)}, {"out", ToLanes(one.out)}});
  }
  std::ofstream file(path);
  file << root.dump(1) << "\n";
  CHECK(file.good()) << "cannot write " << path;
}

}  // namespace intermix::cuda
