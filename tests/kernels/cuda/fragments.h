// One warp executes one instruction on given registers: what the fragment layouts of mma and
// ldmatrix are, seen from outside; or a warpgroup multiplies on wgmma. tests/data/fragments holds
// what hardware answered.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace intermix::cuda {

// Of each lane, in 32-bit words.
//   kMma*             in: a[4], b[2], d[4]; out: d[4]
//   kLdmatrix*        in: the 16 bytes of row `lane` in shared memory, then the row whose address
//                     the lane gives; out: r[4]
enum class Fragment : uint8_t { kMmaS8, kMmaU8S8, kMmaBf16, kLdmatrix, kLdmatrixTrans };
inline constexpr int kFragmentWords = 10;  // in, the unused ones zero
inline constexpr int kFragmentResults = 4;

// D[64, columns] of bfloat16 on wgmma, in kProductSteps steps of 16 after one another. In 32-bit
// words, two bfloat16 or one float each:
//   in   A [64, kProductDepth]; B [columns, kProductDepth], or where it is transposed
//        [kProductDepth, columns]; what D holds before, [64, columns]
//   out  D
inline constexpr int kProductSteps = 4;
inline constexpr int kProductDepth = kProductSteps * 16;
struct Product {
  const char* instruction;  // its name in ptx.h
  int columns;
  bool transposed;
  bool add;  // to what D holds; else the first step only writes it
  int words_a() const { return 64 * kProductDepth / 2; }
  int words_b() const { return columns * kProductDepth / 2; }
  int words_d() const { return columns * 64; }
};
inline constexpr Product kProducts[] = {
    {"wgmma_m64n64k16_bf16", 64, false, false},
    {"wgmma_m64n8k16_bf16", 8, false, true},
    {"wgmma_m64n64k16_bf16_trans", 64, true, true},
    {"wgmma_m64n128k16_bf16_trans", 128, true, true},
};

struct FragmentCase {
  std::string instruction;    // its name in ptx.h
  std::vector<uint32_t> in;   // [32, kFragmentWords], or as Product says
  std::vector<uint32_t> out;  // [32, kFragmentResults]
};

// Fatal for an unknown name.
Fragment FragmentOf(const std::string& instruction);

// What the device answers to `in`.
std::vector<uint32_t> RunFragment(Fragment fragment, const std::vector<uint32_t>& in);

// The same on compute capability 9.0; and what mma_m16n8k16_bf16 answers.
std::vector<uint32_t> RunProduct(const Product& product, const std::vector<uint32_t>& in);
std::vector<uint32_t> RunProductOnMma(const Product& product, const std::vector<uint32_t>& in);
// Null for another instruction's name.
const Product* FindProduct(const std::string& instruction);

// A JSON file: {"device": name, "cases": [{"instruction": name, "in": [hex words of a lane, one
// string for each], "out": ...}]}. Fatal where it cannot be read or written.
std::vector<FragmentCase> ReadFragmentCases(const std::string& path);
void WriteFragmentCases(const std::string& path, const std::string& device,
                        const std::vector<FragmentCase>& cases);

}  // namespace intermix::cuda
