// What libtorch keeps and no worker needs: it is not kept.
//
// Every process that starts libtorch builds its registry of operators anew, for itself. With each of its 15,000 kernels it
// keeps a schema that it read off the kernel's C++ type, and a text that says where the kernel was registered. The first is
// compared with the operator's own schema, which would find a mistake of whoever built libtorch, and the second stands in
// errors. Both are left out: 11 MiB less in each worker. libtorch finds the function below because the worker exports it
// (`build.rs`), as it does with those in `guard.cpp`; a libtorch that calls it otherwise does not find it, and keeps all.

#include <ATen/core/dispatch/Dispatcher.h>

#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <dlfcn.h>
#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

constexpr const char* REGISTER =
    "_ZN3c1010Dispatcher12registerImplENS_12OperatorNameESt8optionalINS_11DispatchKeyEENS_14KernelFunctionES2_INS_4impl"
    "12CppSignatureEESt10unique_ptrINS_14FunctionSchemaESt14default_deleteISA_EENSt7__cxx1112basic_stringIcSt11char_"
    "traitsIcESaIcEEE";

// A member function as the C++ ABI calls it.
using Register = c10::RegistrationHandleRAII (*)(c10::Dispatcher*, c10::OperatorName, std::optional<c10::DispatchKey>,
                                                 c10::KernelFunction, std::optional<c10::impl::CppSignature>,
                                                 std::unique_ptr<c10::FunctionSchema>, std::string);

// A part of a library that is worth it. It is libtorch alone that has any.
constexpr uintptr_t LARGE = 4 << 20;

// A run's scratch stays with the process: whoever gives it back after each run has its pages made anew in the next. Without
// these glibc moves both bounds while it runs, as far as to these numbers, and meanwhile gives and takes.
constexpr int SCRATCH = 32 << 20;
constexpr int KEPT = 2 * SCRATCH;

// Nought until it is asked for: it is used before this program's own statics are made.
Register original = nullptr;

bool written_by_the_linker(const dl_phdr_info* object) {
  for (size_t i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr)& part = object->dlpi_phdr[i];
    if (part.p_type != PT_DYNAMIC) {
      continue;
    }
    for (auto* entry = reinterpret_cast<const ElfW(Dyn)*>(object->dlpi_addr + part.p_vaddr); entry->d_tag != DT_NULL;
         entry++) {
      if (entry->d_tag == DT_TEXTREL || (entry->d_tag == DT_FLAGS && (entry->d_un.d_val & DF_TEXTREL) != 0)) {
        return true;
      }
    }
  }
  return false;
}

int unmap_pages(dl_phdr_info* object, size_t, void*) {
  if (written_by_the_linker(object)) {
    return 0;
  }
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  for (size_t i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr)& part = object->dlpi_phdr[i];
    if (part.p_type != PT_LOAD || (part.p_flags & PF_W) != 0) {
      continue;
    }
    const uintptr_t first = object->dlpi_addr + part.p_vaddr;
    const uintptr_t start = (first + page - 1) & ~(page - 1);
    const uintptr_t end = (first + part.p_memsz) & ~(page - 1);
    if (start < end && end - start >= LARGE) {
      // Where the kernel does not want to, the pages stay.
      madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
    }
  }
  return 0;
}

} // namespace

// libtorch's own, with two of its arguments left empty.
__attribute__((visibility("default"))) c10::RegistrationHandleRAII c10::Dispatcher::registerImpl(
    OperatorName name, std::optional<DispatchKey> key, KernelFunction kernel, std::optional<impl::CppSignature> signature,
    std::unique_ptr<FunctionSchema> inferred, std::string) {
  if (original == nullptr) {
    original = reinterpret_cast<Register>(dlsym(RTLD_NEXT, REGISTER));
    if (original == nullptr) {
      std::terminate();
    }
  }
  inferred.reset();
  return original(this, std::move(name), key, std::move(kernel), std::move(signature), nullptr, std::string());
}

extern "C" {

// The heap's free pages go back to the system. What is freed later stays, so that no run pays for it.
void casemate_let_go_of_heap() {
  malloc_trim(0);
  mallopt(M_MMAP_THRESHOLD, SCRATCH);
  mallopt(M_TRIM_THRESHOLD, KEPT);
}

// The pages of libtorch that were only read leave this process's map: most were needed for the start alone. Whatever is
// needed again is mapped again, from the page cache.
void casemate_let_go_of_libraries() {
  dl_iterate_phdr(unmap_pages, nullptr);
}

} // extern "C"
