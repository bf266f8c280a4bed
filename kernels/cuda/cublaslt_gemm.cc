#include "kernels/cuda/cublaslt_gemm.h"

#include <cublasLt.h>

#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/shared_library.h"

namespace intermix::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what cuBLASLt asks for on Hopper
constexpr size_t kMaxPlans = 4096;

struct Library {
  decltype(&cublasLtCreate) Create;
  decltype(&cublasLtDestroy) Destroy;
  decltype(&cublasLtGetStatusString) GetStatusString;
  decltype(&cublasLtMatmul) Matmul;
  decltype(&cublasLtMatmulDescCreate) DescCreate;
  decltype(&cublasLtMatmulDescDestroy) DescDestroy;
  decltype(&cublasLtMatmulDescSetAttribute) DescSetAttribute;
  decltype(&cublasLtMatrixLayoutCreate) LayoutCreate;
  decltype(&cublasLtMatrixLayoutDestroy) LayoutDestroy;
  decltype(&cublasLtMatmulPreferenceCreate) PreferenceCreate;
  decltype(&cublasLtMatmulPreferenceDestroy) PreferenceDestroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) PreferenceSetAttribute;
  decltype(&cublasLtMatmulAlgoGetHeuristic) GetHeuristic;
};

absl::Status FindAll(const SharedLibrary& file, Library* lt) {
  absl::Status status;
  const auto find = [&](const char* name, auto* function) {
    if (status.ok()) status = file.Find(name, function);
  };
  find("cublasLtCreate", &lt->Create);
  find("cublasLtDestroy", &lt->Destroy);
  find("cublasLtGetStatusString", &lt->GetStatusString);
  find("cublasLtMatmul", &lt->Matmul);
  find("cublasLtMatmulDescCreate", &lt->DescCreate);
  find("cublasLtMatmulDescDestroy", &lt->DescDestroy);
  find("cublasLtMatmulDescSetAttribute", &lt->DescSetAttribute);
  find("cublasLtMatrixLayoutCreate", &lt->LayoutCreate);
  find("cublasLtMatrixLayoutDestroy", &lt->LayoutDestroy);
  find("cublasLtMatmulPreferenceCreate", &lt->PreferenceCreate);
  find("cublasLtMatmulPreferenceDestroy", &lt->PreferenceDestroy);
  find("cublasLtMatmulPreferenceSetAttribute", &lt->PreferenceSetAttribute);
  find("cublasLtMatmulAlgoGetHeuristic", &lt->GetHeuristic);
  return status;
}

absl::StatusOr<Library> OpenLibrary() {
  Library lt = {};
  const absl::StatusOr<SharedLibrary> file = SharedLibrary::Open(
      "cublasLtCreate", {"libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR), "libcublasLt.so"});
  absl::Status status = file.status();
  if (status.ok()) status = FindAll(*file, &lt);
  if (status.ok()) return lt;
  return absl::UnavailableError(
      absl::StrCat(std::string(status.message()),
                   "; weights that are not quantised need cuBLASLt: install it, set "
                   "LD_LIBRARY_PATH, or quantise the model"));
}

}  // namespace

class CublasLtGemm::Impl {
 public:
  Impl(const CudaContext& context, const Library& lt)
      : context_(context), lt_(lt), workspace_(context.Allocate(kWorkspaceBytes)) {
    Check(lt_.Create(&handle_), "starting");
    Check(lt_.PreferenceCreate(&preference_), "starting");
    Check(lt_.PreferenceSetAttribute(preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                     &kWorkspaceBytes, sizeof(kWorkspaceBytes)),
          "starting");
  }
  ~Impl() {
    DestroyPlans();
    lt_.PreferenceDestroy(preference_);
    lt_.Destroy(handle_);
  }

  void Multiply(const Tensor& x, const Tensor& w, const Tensor& y) {
    const Plan& plan = PlanFor(x, w, y);
    const float float_scales[] = {1.0f, 0.0f};  // alpha, beta
    const int32_t int_scales[] = {1, 0};
    const bool ints = y.dtype() == DType::kI32;
    const void* alpha = ints ? static_cast<const void*>(int_scales) : float_scales;
    const void* beta = ints ? static_cast<const void*>(int_scales + 1) : float_scales + 1;
    Check(lt_.Matmul(handle_, plan.product, alpha, w.raw(), plan.w, x.raw(), plan.x, beta, y.raw(),
                     plan.y, y.raw(), plan.y, &plan.algorithm, workspace_.data(), kWorkspaceBytes,
                     context_.stream()),
          Describe(x, w, y));
  }

 private:
  // cuBLASLt's matrices are column-major, so a row-major [rows, cols] is its [cols, rows]:
  // y^T [N, tokens] = op(w) [N, K] . x^T [K, tokens].
  struct Plan {
    cublasLtMatmulDesc_t product = nullptr;
    cublasLtMatrixLayout_t w = nullptr;
    cublasLtMatrixLayout_t x = nullptr;
    cublasLtMatrixLayout_t y = nullptr;
    cublasLtMatmulAlgo_t algorithm = {};
  };
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, DType>;

  // What cuBLASLt calls the types of a product.
  struct Types {
    cublasComputeType_t sums;
    cudaDataType_t scales;
    cudaDataType_t in;
    cudaDataType_t out;
  };
  static Types TypesOf(const Tensor& x, const Tensor& w, const Tensor& y) {
    CHECK(x.dtype() == w.dtype()) << Describe(x, w, y);
    if (x.dtype() == DType::kI8) {
      CHECK(y.dtype() == DType::kI32) << Describe(x, w, y);
      return {CUBLAS_COMPUTE_32I, CUDA_R_32I, CUDA_R_8I, CUDA_R_32I};
    }
    CHECK(x.dtype() == DType::kBF16) << Describe(x, w, y);
    CHECK(y.dtype() == DType::kF32 || y.dtype() == DType::kBF16) << Describe(x, w, y);
    return {CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF,
            y.dtype() == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F};
  }

  static std::string Describe(const Tensor& x, const Tensor& w, const Tensor& y) {
    return absl::StrCat("multiplying ", x.ToString(), " by ", w.ToString(), " to ", y.ToString());
  }

  const Plan& PlanFor(const Tensor& x, const Tensor& w, const Tensor& y) {
    const Key key = {x.rows(), w.rows(), w.cols(), y.stride(0), y.dtype()};
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    if (plans_.size() >= kMaxPlans) DestroyPlans();
    return plans_.emplace(key, MakePlan(x, w, y)).first->second;
  }

  Plan MakePlan(const Tensor& x, const Tensor& w, const Tensor& y) {
    const std::string what = Describe(x, w, y);
    const Types types = TypesOf(x, w, y);
    const uint64_t tokens = static_cast<uint64_t>(x.rows());
    const uint64_t n = static_cast<uint64_t>(w.rows());
    const uint64_t k = static_cast<uint64_t>(w.cols());
    const cublasOperation_t transposed = CUBLAS_OP_T;
    Plan plan;
    Check(lt_.DescCreate(&plan.product, types.sums, types.scales), what);
    Check(lt_.DescSetAttribute(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                               sizeof(transposed)),
          what);
    Check(lt_.LayoutCreate(&plan.w, types.in, k, n, w.cols()), what);
    Check(lt_.LayoutCreate(&plan.x, types.in, k, tokens, x.cols()), what);
    Check(lt_.LayoutCreate(&plan.y, types.out, n, tokens, y.stride(0)), what);
    cublasLtMatmulHeuristicResult_t best = {};
    int count = 0;
    Check(lt_.GetHeuristic(handle_, plan.product, plan.w, plan.x, plan.y, plan.y, preference_, 1,
                           &best, &count),
          what);
    CHECK_EQ(count, 1) << "cuBLASLt has no algorithm for " << what;
    plan.algorithm = best.algo;
    return plan;
  }

  void DestroyPlans() {
    for (auto& [key, plan] : plans_) {
      lt_.LayoutDestroy(plan.y);
      lt_.LayoutDestroy(plan.x);
      lt_.LayoutDestroy(plan.w);
      lt_.DescDestroy(plan.product);
    }
    plans_.clear();
  }

  void Check(cublasStatus_t status, const std::string& what) const {
    CHECK(status == CUBLAS_STATUS_SUCCESS)
        << context_.name() << ": cuBLASLt, " << what << ": " << lt_.GetStatusString(status);
  }

  const CudaContext& context_;
  const Library lt_;
  Buffer workspace_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  std::map<Key, Plan> plans_;
};

CublasLtGemm::CublasLtGemm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CublasLtGemm::~CublasLtGemm() = default;

absl::StatusOr<std::unique_ptr<CublasLtGemm>> CublasLtGemm::Open(const CudaContext& context) {
  const absl::StatusOr<Library> lt = OpenLibrary();
  if (!lt.ok()) return lt.status();
  context.MakeCurrent();
  return std::unique_ptr<CublasLtGemm>(new CublasLtGemm(std::make_unique<Impl>(context, *lt)));
}

void CublasLtGemm::Multiply(const Tensor& x, const Tensor& w, const Tensor& y) {
  impl_->Multiply(x, w, y);
}

}  // namespace intermix::cuda
