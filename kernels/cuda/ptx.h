// Every PTX instruction that the kernels use, behind a small named function.
//
// Under nvcc each is one inline instruction (ptx_device.h). In the emulated build the same
// declarations are functional C++ (tests/emulator), so a kernel's text is the same in both.
// Fragment layouts follow the tables of the PTX ISA, "Warp Level Matrix Multiply-Accumulate
// Instructions"; collectives need all 32 lanes of the warp. sm_80 or newer.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if defined(__CUDACC__)
#define INTERMIX_DEVICE __device__ __forceinline__
#else
#define INTERMIX_DEVICE
#endif

namespace intermix::cuda {

// --- matrix multiply-accumulate (PTX ISA 9.7.15.5) ---

// D[16, 8] += A[16, 32] . B[32, 8]; s8 x s8 -> s32, wrapping (no .satfinite).
//   a  4 registers of 4 int8 (row-major A), b  2 registers (column-major B), d  4 accumulators
INTERMIX_DEVICE void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4],
                                     const uint32_t (&b)[2]);
// The same of unsigned A: u8 x s8 -> s32.
INTERMIX_DEVICE void mma_m16n8k32_u8_s8(int32_t (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]);

// D[16, 8] += A[16, 16] . B[16, 8]; bf16 x bf16 -> f32.
INTERMIX_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]);

// Four 8x8 matrices of 16-bit elements from shared memory; lane i gives the address of row i % 8 of
// matrix i / 8. The .trans form transposes each.
INTERMIX_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row);
INTERMIX_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row);

// --- asynchronous matrix multiply-accumulate of a warpgroup (PTX ISA 9.7.16); sm_90a alone ---

// D[64, 128] (+)= A[64, 32] . B[32, 128]; s8 x s8 -> s32, wrapping; by the four warps of a
// warpgroup. Warp w of them holds rows 16w .. 16w + 15 of A and D, each as fragments of
// mma_m16n8k32_s8: d[j] is of columns 8j .. 8j + 7. Runs on its own: a, d and B are not touched
// before the wait.
//   rows  column n of B in shared memory: 32 bytes of the 128-byte row n. The rows begin at a
//         multiple of 1024 bytes; the 16-byte piece p of row n lies at piece p ^ (n % 8)
//         (128-byte swizzle)
//   add   to what d holds; else d is only written
INTERMIX_DEVICE void wgmma_m64n128k32_s8(int32_t (&d)[16][4], const uint32_t (&a)[4],
                                         const void* rows, bool add);
// The same of bfloat16, D[64, 64] (+)= A[64, 16] . B[16, 64]; bf16 x bf16 -> f32; fragments of
// mma_m16n8k16_bf16. B lies at rows + offset: instructions of the same rows and constant offsets
// share address arithmetic. Column n of B is 32 bytes of the 128-byte row n.
INTERMIX_DEVICE void wgmma_m64n64k16_bf16(float (&d)[8][4], const uint32_t (&a)[4],
                                          const void* rows, int offset, bool add);
// D[64, 8] += A[64, 16] . B[16, 8].
INTERMIX_DEVICE void wgmma_m64n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const void* rows,
                                         int offset);
// D[64, 64] += A[64, 16] . B[16, 64], and of 128 columns. Row k of B is the 128-byte row k, at a
// multiple of 1024 bytes, with the same swizzle; columns 64 .. 127 are 8192 bytes on.
INTERMIX_DEVICE void wgmma_m64n64k16_bf16_trans(float (&d)[8][4], const uint32_t (&a)[4],
                                                const void* rows, int offset);
INTERMIX_DEVICE void wgmma_m64n128k16_bf16_trans(float (&d)[16][4], const uint32_t (&a)[4],
                                                 const void* rows, int offset);
// Before the first of some, and after a or d were written: orders registers.
INTERMIX_DEVICE void wgmma_fence();
INTERMIX_DEVICE void wgmma_commit();
// Waits until at most N of the warp's committed groups are in flight.
template <int N>
INTERMIX_DEVICE void wgmma_wait();
// After the wait, before d is read: the compiler does not see that the wait changes it.
INTERMIX_DEVICE void wgmma_settle(int32_t (&d)[16][4]);
template <int kTiles>
INTERMIX_DEVICE void wgmma_settle(float (&d)[kTiles][4]);
INTERMIX_DEVICE void wgmma_settle(float (&d)[4]);
// The same for a, where other registers are written before the wait: the compiler thinks that a is
// free as soon as the wgmma was started, and may take it for those.
INTERMIX_DEVICE void wgmma_settle(uint32_t (&a)[4]);
// What this thread wrote to shared memory, or waited for, is seen by the wgmma of all threads that
// a barrier comes after (the asynchronous proxy).
INTERMIX_DEVICE void fence_async_proxy();

// --- asynchronous copies, global to shared (PTX ISA 9.7.9.25) ---

// 16 bytes, both addresses 16-byte aligned, bypassing L1. Where `valid` is false zeros are written
// and global memory is not read.
INTERMIX_DEVICE void cp_async_16(void* shared, const void* global, bool valid = true);
// The same of what nobody reads again soon: it leaves L2 before anything else.
INTERMIX_DEVICE void cp_async_16_once(void* shared, const void* global, bool valid = true);
INTERMIX_DEVICE void cp_async_commit();
// Waits until at most N of this thread's committed groups are in flight.
template <int N>
INTERMIX_DEVICE void cp_async_wait();

// --- memory ---

// This block's dynamic shared memory, 128-byte aligned. Kernels use no other shared memory.
INTERMIX_DEVICE char* shared_memory();
// 16-byte accesses; addresses 16-byte aligned. `ld_stream`: read-only data that is read once
// (ld.global.nc.L1::no_allocate).
INTERMIX_DEVICE uint4 ld_stream(const void* global);
// Reads what other blocks' atomics have written: bypasses L1 (ld.global.cg).
INTERMIX_DEVICE int32_t ld_l2_s32(const int32_t* global);
// Global atomics, relaxed.
INTERMIX_DEVICE void red_add_s32(int32_t* address, int32_t value);
INTERMIX_DEVICE int32_t atom_add_s32(int32_t* address, int32_t value);  // returns the old value
// Makes this thread's writes visible to all of the device before its later ones.
INTERMIX_DEVICE void fence_device();

// --- warp collectives, full mask ---

INTERMIX_DEVICE float shfl_xor_f32(float value, int lane_mask);
INTERMIX_DEVICE int32_t shfl_xor_s32(int32_t value, int lane_mask);
INTERMIX_DEVICE int32_t shfl_s32(int32_t value, int lane);
INTERMIX_DEVICE uint32_t ballot(bool predicate);
INTERMIX_DEVICE void sync_warp();

// --- block ---

INTERMIX_DEVICE void sync_block();  // bar.sync 0: every thread of the block
// The same where warps of different roles meet, each at a place of its own.
INTERMIX_DEVICE void sync_roles();
// Registers of each thread of a warpgroup from here on; sm_90a alone. A multiple of 8.
template <int N>
INTERMIX_DEVICE void give_up_registers();
template <int N>
INTERMIX_DEVICE void take_registers();

// --- kernels that start early (PTX ISA, "griddepcontrol"); nothing before sm_90 ---

// Waits until the kernels ahead have ended and what they wrote is seen. Of a kernel that starts
// early (launch.h) every thread calls it; what it touches before, no kernel ahead may write.
INTERMIX_DEVICE void wait_for_kernels_ahead();
// The next kernel may start once every block has called this or ended.
INTERMIX_DEVICE void let_next_kernel_start();

// --- arithmetic with one rounding each, never contracted ---

INTERMIX_DEVICE float fma_rn(float a, float b, float c);
INTERMIX_DEVICE float mul_rn(float a, float b);
INTERMIX_DEVICE float add_rn(float a, float b);
INTERMIX_DEVICE float div_rn(float a, float b);
INTERMIX_DEVICE float sqrt_rn(float a);
// fma.rn.bf16x2: two bfloat16 fmas, in halves. Only for results that bfloat16 holds exactly.
INTERMIX_DEVICE uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c);
// 2^x to 2^-22 of itself, 0 where that is no normal number, NaN for NaN: the device's own
// approximation (ex2.approx.ftz), for results that no other device has to repeat.
INTERMIX_DEVICE float exp2_approx(float x);
INTERMIX_DEVICE float max_nan(float a, float b);  // NaN where one of them is
INTERMIX_DEVICE float to_f32(int32_t value);      // cvt.rn.f32.s32
INTERMIX_DEVICE int32_t round_s32(float value);   // cvt.rni.s32.f32
INTERMIX_DEVICE uint16_t to_bf16(float value);    // cvt.rn.bf16.f32; NaN becomes the canonical one
// Two of them (cvt.rn.bf16x2.f32), `low` in the lower half.
INTERMIX_DEVICE uint32_t to_bf16x2(float low, float high);
INTERMIX_DEVICE float float_of_bits(uint32_t bits);  // mov.b32
INTERMIX_DEVICE uint32_t bits_of_float(float value);
// sum + the products of four int8 each (dp4a.s32.s32).
INTERMIX_DEVICE int32_t dot_s8x4(uint32_t a, uint32_t b, int32_t sum);
INTERMIX_DEVICE int32_t popc(uint32_t value);  // the number of 1 bits
INTERMIX_DEVICE uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector);

// --- code placement ---

// The same value, of which the compiler knows nothing more: what is derived from it is computed
// here, not kept in registers from before a loop.
INTERMIX_DEVICE int32_t opaque(int32_t value);
// The other way round: not computed again inside a loop, as it has no origin left.
INTERMIX_DEVICE const float* opaque(const float* address);

}  // namespace intermix::cuda

#if defined(__CUDACC__)
#include "kernels/cuda/ptx_device.h"
#else
#include <ptx_emulated.h>
#endif
