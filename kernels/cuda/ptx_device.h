// The PTX bodies of ptx.h, for nvcc alone. Included by ptx.h, never directly.
//
// Multiplies and copies are volatile and the barriers clobber memory, so the compiler keeps their
// order; arithmetic is left free to move.
#pragma once

#include "kernels/cuda/ptx.h"

namespace intermix::cuda {

// --- matrix multiply-accumulate ---

INTERMIX_DEVICE void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4],
                                     const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
INTERMIX_DEVICE void mma_m16n8k32_u8_s8(int32_t (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
INTERMIX_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
INTERMIX_DEVICE uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

INTERMIX_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row)));
}

INTERMIX_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row)));
}

// --- asynchronous copies ---

INTERMIX_DEVICE void cp_async_16(void* shared, const void* global, bool valid) {
  asm volatile(
      "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
      "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0));
}

INTERMIX_DEVICE void cp_async_16_once(void* shared, const void* global, bool valid) {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(
                   shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0), "l"(policy));
}

INTERMIX_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
INTERMIX_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// --- memory ---

INTERMIX_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char intermix_shared_memory[];
  return intermix_shared_memory;
}

INTERMIX_DEVICE uint4 ld_stream(const void* global) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(__cvta_generic_to_global(global)));
  return v;
}

INTERMIX_DEVICE int32_t ld_l2_s32(const int32_t* global) {
  int32_t v;
  asm volatile("ld.global.cg.s32 %0, [%1];"
               : "=r"(v)
               : "l"(__cvta_generic_to_global(global))
               : "memory");
  return v;
}

INTERMIX_DEVICE void red_add_s32(int32_t* address, int32_t value) {
  asm volatile("red.relaxed.gpu.global.add.s32 [%0], %1;" ::"l"(__cvta_generic_to_global(address)),
               "r"(value)
               : "memory");
}

INTERMIX_DEVICE int32_t atom_add_s32(int32_t* address, int32_t value) {
  return atomicAdd(address, value);
}

INTERMIX_DEVICE void fence_device() { __threadfence(); }

// --- warp collectives ---

INTERMIX_DEVICE float shfl_xor_f32(float value, int lane_mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, lane_mask);
}
INTERMIX_DEVICE int32_t shfl_xor_s32(int32_t value, int lane_mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, lane_mask);
}
INTERMIX_DEVICE int32_t shfl_s32(int32_t value, int lane) {
  return __shfl_sync(0xFFFFFFFFu, value, lane);
}
INTERMIX_DEVICE uint32_t ballot(bool predicate) { return __ballot_sync(0xFFFFFFFFu, predicate); }
INTERMIX_DEVICE void sync_warp() { __syncwarp(); }

// --- block ---

INTERMIX_DEVICE void sync_block() { __syncthreads(); }
INTERMIX_DEVICE void sync_roles() { asm volatile("barrier.sync 0;" ::: "memory"); }

// --- kernels that start early ---

INTERMIX_DEVICE void wait_for_kernels_ahead() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
INTERMIX_DEVICE void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- arithmetic ---

INTERMIX_DEVICE float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
INTERMIX_DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
INTERMIX_DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
INTERMIX_DEVICE float div_rn(float a, float b) { return __fdiv_rn(a, b); }
INTERMIX_DEVICE float sqrt_rn(float a) { return __fsqrt_rn(a); }
INTERMIX_DEVICE uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
INTERMIX_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
INTERMIX_DEVICE float max_nan(float a, float b) {
  float c;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
  return c;
}
INTERMIX_DEVICE float to_f32(int32_t value) { return __int2float_rn(value); }
INTERMIX_DEVICE int32_t round_s32(float value) { return __float2int_rn(value); }
INTERMIX_DEVICE uint16_t to_bf16(float value) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
INTERMIX_DEVICE uint32_t to_bf16x2(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}
INTERMIX_DEVICE float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }
INTERMIX_DEVICE uint32_t bits_of_float(float value) { return __float_as_uint(value); }
INTERMIX_DEVICE int32_t opaque(int32_t value) {
  asm volatile("" : "+r"(value));
  return value;
}
INTERMIX_DEVICE const float* opaque(const float* address) {
  asm volatile("" : "+l"(address));
  return address;
}
INTERMIX_DEVICE int32_t dot_s8x4(uint32_t a, uint32_t b, int32_t sum) {
  return __dp4a(static_cast<int32_t>(a), static_cast<int32_t>(b), sum);
}
INTERMIX_DEVICE int32_t popc(uint32_t value) { return __popc(value); }
INTERMIX_DEVICE uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(a), "r"(b), "r"(selector));
  return bytes;
}

}  // namespace intermix::cuda

#include "kernels/cuda/ptx_device_sm90.h"
