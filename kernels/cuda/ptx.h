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

// D[16, 8] += A[16, 16] . B[16, 8]; bf16 x bf16 -> f32.
INTERMIX_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]);

// Four 8x8 matrices of 16-bit elements from shared memory; lane i gives the address of row i % 8 of
// matrix i / 8. The .trans form transposes each.
INTERMIX_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row);
INTERMIX_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row);

// --- asynchronous copies, global to shared (PTX ISA 9.7.9.25) ---

// 16 bytes, both addresses 16-byte aligned, bypassing L1. Where `valid` is false zeros are written
// and global memory is not read.
INTERMIX_DEVICE void cp_async_16(void* shared, const void* global, bool valid = true);
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
INTERMIX_DEVICE float shfl_f32(float value, int lane);
INTERMIX_DEVICE int32_t shfl_s32(int32_t value, int lane);
INTERMIX_DEVICE uint32_t ballot(bool predicate);
INTERMIX_DEVICE void sync_warp();

// --- block ---

INTERMIX_DEVICE void sync_block();  // bar.sync 0: every thread of the block

// --- arithmetic with one rounding each, never contracted ---

INTERMIX_DEVICE float fma_rn(float a, float b, float c);
INTERMIX_DEVICE float mul_rn(float a, float b);
INTERMIX_DEVICE float add_rn(float a, float b);
INTERMIX_DEVICE float div_rn(float a, float b);
INTERMIX_DEVICE float sqrt_rn(float a);
// fma.rn.bf16x2: two bfloat16 fmas, in halves. Only for results that bfloat16 holds exactly.
INTERMIX_DEVICE uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c);
INTERMIX_DEVICE float to_f32(int32_t value);     // cvt.rn.f32.s32
INTERMIX_DEVICE int32_t round_s32(float value);  // cvt.rni.s32.f32
INTERMIX_DEVICE uint16_t to_bf16(float value);   // cvt.rn.bf16.f32; NaN becomes the canonical one
INTERMIX_DEVICE float float_of_bits(uint32_t bits);  // mov.b32
INTERMIX_DEVICE uint32_t bits_of_float(float value);
INTERMIX_DEVICE int32_t popc(uint32_t value);  // the number of 1 bits
INTERMIX_DEVICE uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector);
INTERMIX_DEVICE int32_t dp4a(uint32_t a, uint32_t b, int32_t c);  // s8 x s8, wrapping

// --- code placement ---

// The same value, of which the compiler knows nothing more: what is derived from it is computed
// here, not kept in registers from before a loop.
INTERMIX_DEVICE int32_t opaque(int32_t value);

}  // namespace intermix::cuda

#if defined(__CUDACC__)
#include "kernels/cuda/ptx_device.h"
#else
#include <ptx_emulated.h>
#endif
