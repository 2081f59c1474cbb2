// What libtorch and its libraries would do while a model runs, and cannot do in the cage: write machine code, start and end
// threads. Some of it has a switch; for the rest the dynamic linker finds a definition here before libtorch's own.

#include <ATen/Context.h>

#if defined(__x86_64__)
#include <fbgemm/FbgemmI64.h>
#endif

#include <cstdlib>

#include <dlfcn.h>
#include <malloc.h>
#include <omp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

using Region = void (*)(void*);
using Parallel = void (*)(Region, void*, unsigned, unsigned);

Parallel libgomps_own() {
  // Looked up at the first region, which is in the warm-up.
  static const Parallel own = reinterpret_cast<Parallel>(dlsym(RTLD_NEXT, "GOMP_parallel"));
  return own;
}

} // namespace

// The one function by which libtorch and MKL start a parallel region. MKL asks for fewer threads where it has less to do;
// libgomp would then end those that are left over, and start new ones for the next larger region. So a region gets the
// whole team or runs on one thread: fewer threads than asked for is what every OpenMP program must bear.
extern "C" __attribute__((visibility("default"))) void GOMP_parallel(Region region, void* data, unsigned threads,
                                                                     unsigned flags) {
  const bool whole = threads == 0 || threads >= static_cast<unsigned>(omp_get_max_threads());
  libgomps_own()(region, data, whole ? 0 : 1, flags);
}

// The one call by which oneDNN's generator makes its pages executable, once it has written them; it asks for pages that can
// be written and run. It writes them no more, so they lose the one when they get the other.
extern "C" __attribute__((visibility("default"))) int mprotect(void* start, size_t length, int protection) noexcept {
  constexpr int both = PROT_WRITE | PROT_EXEC;
  const int given = (protection & both) == both ? protection & ~PROT_WRITE : protection;
  return static_cast<int>(syscall(SYS_mprotect, start, length, given));
}

#if defined(__x86_64__)
// A product of i64 matrices runs in machine code that FBGEMM writes, and has no switch: here, in FBGEMM's plain C++.
namespace fbgemm {

FBGEMM_API void cblas_gemm_i64_i64acc_ref(matrix_op_t, matrix_op_t, int, int, int, const int64_t*, int, const int64_t*, int,
                                          bool, int64_t*, int);

FBGEMM_API void cblas_gemm_i64_i64acc(matrix_op_t transa, matrix_op_t transb, int m, int n, int k, const int64_t* a,
                                      int lda, const int64_t* b, int ldb, bool accumulate, int64_t* c, int ldc) {
  cblas_gemm_i64_i64acc_ref(transa, transb, m, n, k, a, lda, b, ldb, accumulate, c, ldc);
}

} // namespace fbgemm
#endif

// What has a switch. Only oneDNN is let write machine code, and only for a model that may: its kernels are what makes it
// fast. FBGEMM's and NNPACK's would save little, and each is one more place that writes code.
void casemate_tame(bool code) {
  at::globalContext().setUserEnabledMkldnn(code);
  // NNPACK has a thread pool of its own.
  at::globalContext().setUserEnabledNNPACK(false);
  // Kernels of embedding bags. There is no other switch than these, and one thread to set them.
  setenv("FBGEMM_NO_ASMJIT", "1", 1);
  setenv("FBGEMM_FORCE_AUTOVEC", "1", 1);
  // Code that was made before the last filter and then forgotten could not be made again. Asked for at the first use.
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384", 1);
  // With its ninth arena, which is to say with many threads, glibc would ask how many CPUs there are.
  mallopt(M_ARENA_MAX, 8);
}
