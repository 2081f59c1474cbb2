// Who makes a function's `static` when several threads come to it first: in place of what libstdc++ has for it.
//
// Theirs waits by a futex that other processes could share. The last filter allows only futexes of this process: by one on
// a page of a library, which all workers map, two workers could signal each other. So with theirs, two instances that meet
// at such a `static` for the first time would end the worker. This one waits by a mutex and a condition of its own; libtorch
// finds it because the worker exports it (`build.rs`), and the dynamic linker asks the program first.
//
// As the C++ ABI says: the first byte of a guard is set once the `static` is made, and only that byte is read elsewhere.

#include <cstdint>

#include <pthread.h>

namespace {

// Constants of the linker's, so that they need no guard.
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
// Changed under the lock only.
unsigned waiting = 0;

bool made(const uint8_t* guard) {
  return __atomic_load_n(&guard[0], __ATOMIC_ACQUIRE) != 0;
}

void end(uint8_t* guard, bool success) {
  pthread_mutex_lock(&lock);
  guard[1] = 0;
  if (success) {
    __atomic_store_n(&guard[0], 1, __ATOMIC_RELEASE);
  }
  if (waiting > 0) {
    pthread_cond_broadcast(&ended);
  }
  pthread_mutex_unlock(&lock);
}

} // namespace

extern "C" {

// 1 for the one who is to make it; 0 when it is made.
__attribute__((visibility("default"))) int __cxa_guard_acquire(uint64_t* object) {
  auto* guard = reinterpret_cast<uint8_t*>(object);
  pthread_mutex_lock(&lock);
  while (!made(guard) && guard[1] != 0) {
    waiting++;
    pthread_cond_wait(&ended, &lock);
    waiting--;
  }
  const bool mine = !made(guard);
  if (mine) {
    guard[1] = 1;
  }
  pthread_mutex_unlock(&lock);
  return mine ? 1 : 0;
}

__attribute__((visibility("default"))) void __cxa_guard_release(uint64_t* object) {
  end(reinterpret_cast<uint8_t*>(object), true);
}

__attribute__((visibility("default"))) void __cxa_guard_abort(uint64_t* object) {
  end(reinterpret_cast<uint8_t*>(object), false);
}

} // extern "C"
