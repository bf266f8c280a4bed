#include "kernels/cuda/cuda_limits.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <random>
#include <utility>

#include "kernels/cuda/cublaslt_gemm.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/cuda/pinned_staging.h"

namespace intermix {
namespace cuda {
namespace {

constexpr int kLaunches = 4;  // of one run, beside which the wait for them is short
constexpr uint32_t kSidePerSm = 64;

// Eight bytes of random numbers: random bits where `random` has ones, else those of `fixed`.
struct RandomBits {
  uint64_t random;
  uint64_t fixed;
};
constexpr RandomBits kAnyBytes = {~uint64_t{0}, 0};
// Four bfloat16 of either sign, of magnitudes 1/8 .. 2.
constexpr RandomBits kBf16 = {0x81FF81FF81FF81FF, 0x3E003E003E003E00};

// What the runs of one set of limits share.
struct State {
  explicit State(std::unique_ptr<CudaContext> owned)
      : context(std::move(owned)), staging(*context), engine(1) {}

  Buffer Random(int64_t bytes, const RandomBits& bits) {
    Buffer buffer = context->Allocate(static_cast<size_t>(bytes));
    std::vector<uint64_t> piece(size_t{1} << 19);
    const auto piece_bytes = static_cast<int64_t>(piece.size() * sizeof(uint64_t));
    for (int64_t at = 0; at < bytes; at += piece_bytes) {
      for (uint64_t& word : piece) word = (engine() & bits.random) | bits.fixed;
      staging.Upload(piece.data(), static_cast<char*>(buffer.data()) + at,
                     static_cast<size_t>(std::min(piece_bytes, bytes - at)));
    }
    return buffer;
  }
  void Finish() const {
    context->Check(cudaStreamSynchronize(context->stream()), "measuring its limits");
  }

  std::unique_ptr<CudaContext> context;  // the last to go
  PinnedStaging staging;
  std::mt19937_64 engine;
  std::unique_ptr<CublasLtGemm> gemm;  // null: no cuBLASLt here
};

Limit CopyLimit(const std::shared_ptr<State>& state, int64_t bytes) {
  const auto from = std::make_shared<const Buffer>(state->Random(bytes, kAnyBytes));
  const auto to =
      std::make_shared<const Buffer>(state->context->Allocate(static_cast<size_t>(bytes)));
  return {.name = "copy on the device",
          .resource = Resource::kBytes,
          .amount = 2.0 * kLaunches * static_cast<double>(bytes),
          .run = [state, from, to] {
            const CudaContext& context = *state->context;
            context.MakeCurrent();
            for (int i = 0; i < kLaunches; ++i) {
              context.Check(cudaMemcpyAsync(to->data(), from->data(), from->bytes(),
                                            cudaMemcpyDeviceToDevice, context.stream()),
                            "copying on the device");
            }
            state->Finish();
          }};
}

struct ProductType {
  const char* name;
  Resource resource;
  DType in;
  DType out;
  RandomBits bits;
};

Limit ProductLimit(const std::shared_ptr<State>& state, int64_t side, const ProductType& type) {
  const int64_t in_bytes = side * side * static_cast<int64_t>(ByteSize(type.in));
  const size_t out_bytes = static_cast<size_t>(side * side) * ByteSize(type.out);
  struct Operands {
    Buffer x, w, y;
  };
  const auto operands =
      std::make_shared<const Operands>(Operands{.x = state->Random(in_bytes, type.bits),
                                                .w = state->Random(in_bytes, type.bits),
                                                .y = state->context->Allocate(out_bytes)});
  const auto edge = static_cast<double>(side);
  return {.name = type.name,
          .resource = type.resource,
          .amount = 2.0 * kLaunches * edge * edge * edge,
          .run = [state, operands, side, in = type.in, out = type.out] {
            state->context->MakeCurrent();
            for (int i = 0; i < kLaunches; ++i) {
              state->gemm->Multiply(operands->x.View(in, {side, side}),
                                    operands->w.View(in, {side, side}),
                                    operands->y.View(out, {side, side}));
            }
            state->Finish();
          }};
}

}  // namespace
}  // namespace cuda

absl::StatusOr<std::vector<Limit>> CudaLimits(const CudaLimitOptions& options) {
  absl::StatusOr<std::unique_ptr<cuda::CudaContext>> context =
      cuda::CudaContext::Make(options.device, 0);
  if (!context.ok()) return context.status();
  const auto state = std::make_shared<cuda::State>(*std::move(context));
  const auto sms = static_cast<uint32_t>(state->context->gemm_device().sm_count);
  const int64_t side = options.side > 0 ? options.side : std::bit_floor(sms * cuda::kSidePerSm);
  std::vector<Limit> limits;
  limits.push_back(CopyLimit(state, 32 * side * side));
  auto gemm = cuda::CublasLtGemm::Open(*state->context);
  if (!gemm.ok()) return limits;
  state->gemm = *std::move(gemm);
  limits.push_back(ProductLimit(state, side,
                                {.name = "cuBLASLt int8",
                                 .resource = Resource::kInt8,
                                 .in = DType::kI8,
                                 .out = DType::kI32,
                                 .bits = cuda::kAnyBytes}));
  limits.push_back(ProductLimit(state, side,
                                {.name = "cuBLASLt bf16",
                                 .resource = Resource::kFloat,
                                 .in = DType::kBF16,
                                 .out = DType::kBF16,
                                 .bits = cuda::kBf16}));
  return limits;
}

}  // namespace intermix
