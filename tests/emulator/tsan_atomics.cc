// Atomics of the host code that is compiled together with kernels (reference counts, guards of
// statics): carried out as they are. Kernels have their atomics in kernels/cuda/ptx.h.
#include <cstdint>

extern "C" {

uint8_t __tsan_atomic8_load(const volatile uint8_t* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
void __tsan_atomic8_store(volatile uint8_t* p, uint8_t v, int) {
  __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}
uint8_t __tsan_atomic8_exchange(volatile uint8_t* p, uint8_t v, int) {
  return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
uint8_t __tsan_atomic8_fetch_add(volatile uint8_t* p, uint8_t v, int) {
  return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
uint8_t __tsan_atomic8_fetch_sub(volatile uint8_t* p, uint8_t v, int) {
  return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);
}
int __tsan_atomic8_compare_exchange_strong(volatile uint8_t* p, uint8_t* expected, uint8_t v, int,
                                           int) {
  return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
int __tsan_atomic8_compare_exchange_weak(volatile uint8_t* p, uint8_t* expected, uint8_t v, int,
                                         int) {
  return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
uint16_t __tsan_atomic16_load(const volatile uint16_t* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
void __tsan_atomic16_store(volatile uint16_t* p, uint16_t v, int) {
  __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}
uint16_t __tsan_atomic16_exchange(volatile uint16_t* p, uint16_t v, int) {
  return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
uint16_t __tsan_atomic16_fetch_add(volatile uint16_t* p, uint16_t v, int) {
  return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
uint16_t __tsan_atomic16_fetch_sub(volatile uint16_t* p, uint16_t v, int) {
  return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);
}
int __tsan_atomic16_compare_exchange_strong(volatile uint16_t* p, uint16_t* expected, uint16_t v,
                                            int, int) {
  return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
int __tsan_atomic16_compare_exchange_weak(volatile uint16_t* p, uint16_t* expected, uint16_t v, int,
                                          int) {
  return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_load(const volatile uint32_t* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
void __tsan_atomic32_store(volatile uint32_t* p, uint32_t v, int) {
  __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_exchange(volatile uint32_t* p, uint32_t v, int) {
  return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_fetch_add(volatile uint32_t* p, uint32_t v, int) {
  return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
uint32_t __tsan_atomic32_fetch_sub(volatile uint32_t* p, uint32_t v, int) {
  return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);
}
int __tsan_atomic32_compare_exchange_strong(volatile uint32_t* p, uint32_t* expected, uint32_t v,
                                            int, int) {
  return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
int __tsan_atomic32_compare_exchange_weak(volatile uint32_t* p, uint32_t* expected, uint32_t v, int,
                                          int) {
  return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
uint64_t __tsan_atomic64_load(const volatile uint64_t* p, int) {
  return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}
void __tsan_atomic64_store(volatile uint64_t* p, uint64_t v, int) {
  __atomic_store_n(p, v, __ATOMIC_SEQ_CST);
}
uint64_t __tsan_atomic64_exchange(volatile uint64_t* p, uint64_t v, int) {
  return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
uint64_t __tsan_atomic64_fetch_add(volatile uint64_t* p, uint64_t v, int) {
  return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
uint64_t __tsan_atomic64_fetch_sub(volatile uint64_t* p, uint64_t v, int) {
  return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);
}
int __tsan_atomic64_compare_exchange_strong(volatile uint64_t* p, uint64_t* expected, uint64_t v,
                                            int, int) {
  return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
int __tsan_atomic64_compare_exchange_weak(volatile uint64_t* p, uint64_t* expected, uint64_t v, int,
                                          int) {
  return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

}  // extern "C"
