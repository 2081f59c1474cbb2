// How a model is read: from memory, and with its tensors left where they lie.
//
// libtorch copies each tensor's numbers out of the archive. Here most are handed out in place: a private mapping of the same
// file, whose pages are the file's own until the model writes to them. So a model is loaded without a copy, and all workers of
// a file share what none of them changes. Which bytes are a tensor's is not read from the archive again: the gate saw
// where each record lies, with its checksum, and only what libtorch finds at exactly such a place is handed out, once. All
// else is copied, as ever: a second tensor of the same record, what is not aligned, what no gate has seen.
//
// libtorch finds the function below because the worker exports it (`build.rs`), as it does with those in `guard.cpp`; a
// libtorch that calls it otherwise does not find it, and copies all. Nobody can give such a tensor other memory: what an
// archive holds cannot be resized, in place or not.

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <caffe2/serialize/inline_container.h>
#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <dlfcn.h>

using caffe2::serialize::PyTorchStreamReader;

// Where one tensor's numbers lie in the archive.
struct Place {
  uint64_t start;
  uint64_t bytes;
};

// The private mapping, as long as the archive; which parts of it may be handed out, in order; and how many were.
struct Shelf {
  uint8_t* own;
  size_t length;
  const Place* places;
  size_t count;
  size_t used;
};

namespace {

constexpr const char* RECORD =
    "_ZN6caffe29serialize19PyTorchStreamReader9getRecordERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEESt8optional"
    "IPN3c109AllocatorEE";

using Record = std::tuple<at::DataPtr, size_t>;
// A member function as the C++ ABI calls it.
using GetRecord = Record (*)(PyTorchStreamReader*, const std::string&, std::optional<at::Allocator*>);

// As libtorch aligns what it allocates, and what it writes.
constexpr uint64_t ALIGNMENT = 64;

// The model's bytes where they lie.
struct Memory : caffe2::serialize::ReadAdapterInterface {
  const uint8_t* bytes;
  size_t length;

  Memory(const uint8_t* bytes, size_t length) : bytes(bytes), length(length) {}

  size_t size() const override {
    return length;
  }

  size_t read(uint64_t at, void* into, size_t wanted, const char*) const override {
    if (at >= length) {
      return 0;
    }
    size_t count = wanted < length - at ? wanted : length - at;
    memcpy(into, bytes + at, count);
    return count;
  }
};

// One load, for as long as it lasts.
struct Reading {
  std::shared_ptr<Memory> memory;
  Shelf& shelf;
  std::vector<bool> given;

  Reading(const uint8_t* bytes, size_t length, Shelf& shelf);
  ~Reading();
  void* take(const std::string& name, PyTorchStreamReader& reader, size_t* bytes);
};

// Of this thread. A model that is loaded runs none of its code on another.
thread_local Reading* now = nullptr;

Reading::Reading(const uint8_t* bytes, size_t length, Shelf& shelf)
    : memory(std::make_shared<Memory>(bytes, length)), shelf(shelf), given(shelf.count) {
  now = this;
}

Reading::~Reading() {
  now = nullptr;
  // Should anything in libtorch still hold it, it finds an empty file and not memory that may be gone.
  memory->length = 0;
}

// Where a tensor's record lies in the mapping, or nothing.
void* Reading::take(const std::string& name, PyTorchStreamReader& reader, size_t* bytes) {
  if (shelf.count == 0 || (name.compare(0, 5, "data/") != 0 && name.compare(0, 10, "constants/") != 0)) {
    return nullptr;
  }
  const uint64_t start = reader.getRecordOffset(name), size = reader.getRecordSize(name);
  const Place* end = shelf.places + shelf.count;
  const Place* place = std::lower_bound(
      shelf.places, end, start, [](const Place& place, uint64_t wanted) { return place.start < wanted; });
  const bool known = place != end && place->start == start && place->bytes == size;
  const bool inside = start <= shelf.length && size <= shelf.length - start;
  const size_t which = static_cast<size_t>(place - shelf.places);
  if (!known || !inside || start % ALIGNMENT != 0 || given[which]) {
    return nullptr;
  }
  given[which] = true;
  shelf.used++;
  *bytes = size;
  return shelf.own + start;
}

} // namespace

// In place of libtorch's, which reads and copies.
__attribute__((visibility("default"))) std::tuple<at::DataPtr, size_t> PyTorchStreamReader::getRecord(
    const std::string& name, std::optional<at::Allocator*> allocator) {
  size_t bytes = 0;
  if (now != nullptr) {
    if (void* place = now->take(name, *this, &bytes)) {
      // The mapping stays, so nothing is deleted. The context is the address, as with memory of libtorch's own: where it is not,
      // libtorch makes copies at once that it would make at the first write.
      return {at::DataPtr(place, place, &c10::detail::deleteNothing, c10::Device(c10::kCPU)), bytes};
    }
  }
  static const auto original = reinterpret_cast<GetRecord>(dlsym(RTLD_NEXT, RECORD));
  TORCH_CHECK(original != nullptr, "this libtorch reads archives in a way of its own");
  return original(this, name, allocator);
}

// Reads a module. Of `bytes` and of the shelf nothing is known afterwards but the tensors' own places.
torch::jit::Module casemate_read(const uint8_t* bytes, size_t length, Shelf& shelf) {
  Reading reading(bytes, length, shelf);
  return torch::jit::load(reading.memory, c10::Device(c10::kCPU), /*load_debug_files=*/false);
}
