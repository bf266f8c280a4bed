// The calls that -fsanitize=thread compiles into kernels before every load and store. The kernels
// are not linked with libtsan: the calls end here, in the shadow checks. On the host they are
// nothing. -fsanitize=alignment adds what the type of a pointer promises: a uint4 that the compiler
// loads in four parts must be aligned all the same.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "tests/emulator/block.h"
#include "tests/emulator/shadow.h"
#include "tests/emulator/shadow_inl.h"

namespace {

template <size_t kBytes, emu::Access kAccess>
inline void Check(void* address) {
  emu::ThreadState* thread = emu::kernel_thread;
  if (thread == nullptr) return;
  const auto at = reinterpret_cast<uintptr_t>(address);
  const size_t done = emu::CheckQuickly<kBytes, kAccess>(*thread, at);
  if (done == kBytes) return;
  const emu::InEmulator inside;
  emu::FinishCheck<kBytes, kAccess>(*thread, at, done);
}

inline void CheckRange(void* address, size_t bytes, emu::Access access) {
  emu::ThreadState* thread = emu::kernel_thread;
  if (thread == nullptr) return;
  const emu::InEmulator inside;
  emu::CheckAccess(*thread, reinterpret_cast<uintptr_t>(address), bytes, 1, access);
}

using emu::Access;

// The layout that the compiler emits for a check of a pointer (libubsan's TypeMismatchData).
struct TypeMismatch {
  const char* file;
  uint32_t line;
  uint32_t column;
  const void* type;
  unsigned char log_alignment;
  unsigned char kind;
};

}  // namespace

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

void __tsan_read1(void* p) { Check<1, Access::kRead>(p); }
void __tsan_read2(void* p) { Check<2, Access::kRead>(p); }
void __tsan_read4(void* p) { Check<4, Access::kRead>(p); }
void __tsan_read8(void* p) { Check<8, Access::kRead>(p); }
void __tsan_read16(void* p) { Check<16, Access::kRead>(p); }
void __tsan_write1(void* p) { Check<1, Access::kWrite>(p); }
void __tsan_write2(void* p) { Check<2, Access::kWrite>(p); }
void __tsan_write4(void* p) { Check<4, Access::kWrite>(p); }
void __tsan_write8(void* p) { Check<8, Access::kWrite>(p); }
void __tsan_write16(void* p) { Check<16, Access::kWrite>(p); }
void __tsan_volatile_read1(void* p) { Check<1, Access::kRead>(p); }
void __tsan_volatile_read2(void* p) { Check<2, Access::kRead>(p); }
void __tsan_volatile_read4(void* p) { Check<4, Access::kRead>(p); }
void __tsan_volatile_read8(void* p) { Check<8, Access::kRead>(p); }
void __tsan_volatile_write1(void* p) { Check<1, Access::kWrite>(p); }
void __tsan_volatile_write2(void* p) { Check<2, Access::kWrite>(p); }
void __tsan_volatile_write4(void* p) { Check<4, Access::kWrite>(p); }
void __tsan_volatile_write8(void* p) { Check<8, Access::kWrite>(p); }
// "Unaligned" is the compiler's word for what it cannot prove; a kernel's access must still be.
void __tsan_unaligned_read2(void* p) { Check<2, Access::kRead>(p); }
void __tsan_unaligned_read4(void* p) { Check<4, Access::kRead>(p); }
void __tsan_unaligned_read8(void* p) { CheckRange(p, 8, Access::kRead); }
void __tsan_unaligned_read16(void* p) { CheckRange(p, 16, Access::kRead); }
void __tsan_unaligned_write2(void* p) { Check<2, Access::kWrite>(p); }
void __tsan_unaligned_write4(void* p) { Check<4, Access::kWrite>(p); }
void __tsan_unaligned_write8(void* p) { CheckRange(p, 8, Access::kWrite); }
void __tsan_unaligned_write16(void* p) { CheckRange(p, 16, Access::kWrite); }
void __tsan_read_range(void* p, size_t bytes) { CheckRange(p, bytes, Access::kRead); }
void __tsan_write_range(void* p, size_t bytes) { CheckRange(p, bytes, Access::kWrite); }

// What clang makes of copies and fills that it does not expand.
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  CheckRange(const_cast<void*>(from), bytes, Access::kRead);
  CheckRange(to, bytes, Access::kWrite);
  return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  CheckRange(const_cast<void*>(from), bytes, Access::kRead);
  CheckRange(to, bytes, Access::kWrite);
  return std::memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  CheckRange(to, bytes, Access::kWrite);
  return std::memset(to, value, bytes);
}

void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, uintptr_t pointer) {
  if (emu::kernel_thread == nullptr) return;
  const emu::InEmulator inside;
  emu::EndMisaligned(pointer, size_t{1} << data->log_alignment,
                     std::string(data->file) + ":" + std::to_string(data->line));
}

}  // extern "C"
