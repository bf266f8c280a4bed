// One warp executes one instruction on given registers: what the fragment layouts of mma and
// ldmatrix are, seen from outside. tests/data/fragments holds what hardware answered.
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

struct FragmentCase {
  std::string instruction;    // its name in ptx.h
  std::vector<uint32_t> in;   // [32, kFragmentWords]
  std::vector<uint32_t> out;  // [32, kFragmentResults]
};

// Fatal for an unknown name.
Fragment FragmentOf(const std::string& instruction);

// What the device answers to `in`.
std::vector<uint32_t> RunFragment(Fragment fragment, const std::vector<uint32_t>& in);

// A JSON file: {"device": name, "cases": [{"instruction": name, "in": [hex words of a lane, one
// string for each], "out": ...}]}. Fatal where it cannot be read or written.
std::vector<FragmentCase> ReadFragmentCases(const std::string& path);
void WriteFragmentCases(const std::string& path, const std::string& device,
                        const std::vector<FragmentCase>& cases);

}  // namespace intermix::cuda
