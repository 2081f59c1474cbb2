// What tch lacks, as plain C functions: a loader of what lies in memory, a forward that lets no exception out, a look at a
// tensor that nobody may trust, and the thread pools.
//
// A model is hostile code, so anything may be thrown from it, and what it returns may be any value. Every function that
// can throw goes through `guarded`, and answers with a `Code` and a text. Builds against libtorch 2.11 and 2.13.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/python/update_graph_executor_opt.h>
#include <torch/csrc/jit/runtime/operator.h>
#include <torch/csrc/jit/runtime/print_handler.h>
#include <torch/version.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <future>
#include <memory>
#include <new>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <sched.h>
#include <unistd.h>

// In `caged.cpp`.
void casemate_tame(bool code);

// In `mapped.cpp`.
struct Shelf;
torch::jit::Module casemate_read(const uint8_t* bytes, size_t length, Shelf& shelf);

// In `instance.cpp`.
torch::jit::Module casemate_copy(const torch::jit::Module& module);

// In `convolution.cpp`.
void casemate_watch();
void casemate_learn(const void* given);
void casemate_unlearn();
bool casemate_met_any() noexcept;
size_t casemate_met(void* into, size_t room);

namespace {

enum Code : int { OK = 0, MODEL = 1, MEMORY = 2, OUTPUT = 3 };

// Where the text of a failure goes: memory of the caller.
struct Report {
  char* text;
  size_t room;
  size_t length;
};

constexpr size_t MAX_RANK = 16;
constexpr int MAX_DEPTH = 8;
constexpr size_t MAX_LINE = 4096;
constexpr int MAX_YIELDS = 10'000'000;

struct View {
  uint64_t rank;
  uint64_t dims[MAX_RANK];
};

struct Loaded {
  torch::jit::Module module;
  torch::jit::Method forward;
  // Until it takes the place of the first one.
  std::optional<torch::jit::Module> frozen = std::nullopt;
};

Code say(Report* report, Code code, const char* text) noexcept {
  report->length = strnlen(text, report->room);
  memcpy(report->text, text, report->length);
  return code;
}

// libtorch says that it lacks memory in several ways, and the interpreter wraps all of them into another error. A model
// can raise such a text itself; that only mislabels its own failure.
Code blame(const char* text) noexcept {
  const char* signs[] = {"can't allocate memory", "not enough memory", "std::bad_alloc", "std::length_error"};
  for (const char* sign : signs) {
    if (strstr(text, sign) != nullptr) {
      return MEMORY;
    }
  }
  return MODEL;
}

template <class Act>
int guarded(Report* report, Act&& act) noexcept {
  try {
    // Thread-local state and cheap: no gradient is recorded by whatever the model does.
    c10::InferenceMode guard;
    return act();
  } catch (const std::bad_alloc&) {
    return say(report, MEMORY, "std::bad_alloc");
  } catch (const c10::Error& error) {
    const char* text = error.what_without_backtrace();
    return say(report, blame(text), text);
  } catch (const std::exception& error) {
    // Once: some of libtorch's errors make their text anew at each call, and free the last one.
    const char* text = error.what();
    return say(report, blame(text), text);
  } catch (...) {
    return say(report, MODEL, "an exception of an unknown type");
  }
}

// Both logs are pipes that do not block: when the reader is behind, the line is lost, and the model goes on.
void line(int fd, const char* text, size_t length) noexcept {
  [[maybe_unused]] ssize_t written = write(fd, text, length < MAX_LINE ? length : MAX_LINE);
}

void print(const std::string& text) {
  line(1, text.data(), text.size());
}

// libtorch's own handler formats the local time, for which libc opens a file.
struct Warnings : c10::WarningHandler {
  void process(const c10::Warning& warning) override {
    std::string text = "warning: " + warning.msg() + "\n";
    line(2, text.data(), text.size());
  }
};

// The handler belongs to a thread.
void hear_warnings() {
  static Warnings warnings;
  c10::WarningUtils::set_warning_handler(&warnings);
}

// The tensors of a value in order, at most `room` of them; false for a value that is neither a tensor nor made of tensors.
bool flatten(const c10::IValue& value, std::vector<at::Tensor>& into, size_t room, int depth) {
  if (into.size() > room || depth > MAX_DEPTH) {
    return true;
  }
  if (value.isTensor()) {
    into.push_back(value.toTensor());
    return true;
  }
  if (value.isTuple()) {
    for (const c10::IValue& part : value.toTupleRef().elements()) {
      if (!flatten(part, into, room, depth + 1)) {
        return false;
      }
    }
    return true;
  }
  if (value.isTensorList() || value.isList()) {
    for (const c10::IValue& part : value.toListRef()) {
      if (into.size() > room) {
        break;
      }
      if (!flatten(part, into, room, depth + 1)) {
        return false;
      }
    }
    return true;
  }
  return false;
}

// A dictionary answers by name, anything else by position.
bool collect(const c10::IValue& value, const char* const* names, size_t count, std::vector<at::Tensor>& into) {
  if (!value.isGenericDict()) {
    return flatten(value, into, count, 0);
  }
  const auto dict = value.toGenericDict();
  for (size_t i = 0; i < count; i++) {
    const auto found = dict.find(std::string(names[i]));
    if (found == dict.end() || !found->value().isTensor()) {
      return false;
    }
    into.push_back(found->value().toTensor());
  }
  return true;
}

// Kinds and classes in C++ of a block and of all that is in it. Not recursive: blocks can nest as deep as the source does,
// which the gate bounds, but graphs hang in nodes too.
constexpr size_t MAX_NODES = 4'000'000;

void walk(torch::jit::Block* first, std::set<std::string>& found, size_t& nodes) {
  const std::string native = "__torch__.torch.classes.";
  const auto see = [&](const torch::jit::Value* value) {
    // A type may hold others, as a list does.
    std::vector<c10::TypePtr> types{value->type()};
    for (size_t seen = 0; !types.empty() && seen < 64; seen++) {
      const c10::TypePtr type = types.back();
      types.pop_back();
      if (const auto named = type->cast<c10::NamedType>()) {
        if (named->name() && named->name()->qualifiedName().compare(0, native.size(), native) == 0) {
          found.insert(named->name()->qualifiedName());
        }
      }
      if (type->kind() != c10::TypeKind::ClassType) {
        for (const auto& inner : type->containedTypes()) {
          types.push_back(inner);
        }
      }
    }
  };
  std::vector<torch::jit::Block*> blocks{first};
  while (!blocks.empty()) {
    torch::jit::Block* block = blocks.back();
    blocks.pop_back();
    for (torch::jit::Node* node : block->nodes()) {
      TORCH_CHECK(++nodes <= MAX_NODES, "the graphs have too many nodes");
      found.insert(node->kind().toQualString());
      for (const torch::jit::Value* output : node->outputs()) {
        see(output);
      }
      for (torch::jit::Block* inner : node->blocks()) {
        blocks.push_back(inner);
      }
      for (const auto& name : node->attributeNames()) {
        if (node->kindOf(name) == torch::jit::AttributeKind::g) {
          blocks.push_back(node->g(name)->block());
        }
      }
    }
  }
}

// Why a tensor's bytes cannot be handed on, or nothing.
const char* fault_of(const at::Tensor& tensor) {
  return !tensor.defined()                                  ? "undefined"
      : tensor.is_nested()                                  ? "nested"
      : tensor.layout() != at::kStrided                     ? "sparse, or of another layout without strides"
      : tensor.is_quantized()                               ? "quantized"
      : !tensor.device().is_cpu()                           ? "without data on the CPU"
      : tensor.is_complex()                                 ? "complex"
      : tensor._is_zerotensor() || !tensor.has_storage()    ? "without storage"
      : tensor.sizes().size() > MAX_RANK                    ? "of more than 16 dimensions"
                                                            : nullptr;
}

// Unchecked views can be made from TorchScript; nobody reads what lies behind the storage.
bool reaches_beyond(const at::Tensor& tensor) {
  const auto negative = [](int64_t number) { return number < 0; };
  const auto any = [&](at::IntArrayRef numbers) { return std::any_of(numbers.begin(), numbers.end(), negative); };
  if (negative(tensor.storage_offset()) || any(tensor.sizes()) || any(tensor.strides())) {
    // libtorch adds one to an offset before it looks whether that is a number of any use.
    return true;
  }
  const size_t extent = at::detail::computeStorageNbytes(
      tensor.sizes(), tensor.strides(), tensor.itemsize(), tensor.storage_offset());
  return extent > tensor.storage().nbytes();
}

// Numbers that are compared at once, and at most in one tensor: a shape can claim any number of them.
constexpr int64_t STRIDE = 1 << 20;
constexpr int64_t MAX_COMPARED = 1 << 27;

// Why answers cannot even be compared, or nothing.
std::string fault_of_all(const std::vector<at::Tensor>& all) {
  for (const at::Tensor& tensor : all) {
    if (const char* fault = fault_of(tensor)) {
      return std::string("a tensor is ") + fault;
    }
    if (reaches_beyond(tensor)) {
      return "a tensor reaches beyond its storage";
    }
    if (tensor.numel() > MAX_COMPARED) {
      return "a tensor has too many numbers to be compared";
    }
  }
  return "";
}

// The largest difference of two lists of tensors, relative to the largest finite number; infinite where they are not alike.
// What is not finite has to be the same in both.
double distance(const std::vector<at::Tensor>& before, const std::vector<at::Tensor>& after) {
  constexpr double never = std::numeric_limits<double>::infinity();
  if (before.size() != after.size()) {
    return never;
  }
  double most = 0;
  for (size_t i = 0; i < before.size(); i++) {
    if (before[i].sizes() != after[i].sizes() || before[i].scalar_type() != after[i].scalar_type()) {
      return never;
    }
    const at::Tensor all[] = {before[i].resolve_neg().reshape({-1}), after[i].resolve_neg().reshape({-1})};
    double largest = 0, apart = 0;
    for (int64_t at = 0; at < all[0].numel(); at += STRIDE) {
      const int64_t count = std::min(STRIDE, all[0].numel() - at);
      const at::Tensor a = all[0].narrow(0, at, count).to(at::kDouble).contiguous();
      const at::Tensor b = all[1].narrow(0, at, count).to(at::kDouble).contiguous();
      const double *one = a.const_data_ptr<double>(), *other = b.const_data_ptr<double>();
      for (int64_t k = 0; k < count; k++) {
        if (!std::isfinite(one[k]) || !std::isfinite(other[k])) {
          const bool same = std::isnan(one[k]) ? std::isnan(other[k]) : one[k] == other[k];
          if (!same) {
            return never;
          }
          continue;
        }
        largest = std::max(largest, std::abs(one[k]));
        apart = std::max(apart, std::abs(one[k] - other[k]));
      }
    }
    most = std::max(most, apart / std::max(largest, std::numeric_limits<double>::min()));
  }
  return most;
}

// Names, a line each; false where they do not fit.
bool list(const std::set<std::string>& found, uint8_t* names, size_t room, size_t* length) {
  for (const std::string& name : found) {
    if (name.size() + 1 > room - *length) {
      return false;
    }
    memcpy(names + *length, name.data(), name.size());
    names[*length + name.size()] = '\n';
    *length += name.size() + 1;
  }
  return true;
}

// A thread's first allocation gives it an arena, and for the ninth of them glibc asks how many CPUs there are: a call that
// the last filter does not allow.
void take_arena() {
  constexpr size_t BEYOND_CACHES = 4096;
  void* volatile block = malloc(BEYOND_CACHES);
  free(block);
}

// A parallel region that ends only once as many threads are in it as there should be.
void raise_team(int threads) {
  std::atomic<int> arrived{0};
  std::atomic<bool> late{false};
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    hear_warnings();
    take_arena();
    arrived += static_cast<int>(end - begin);
    for (int yields = 0; arrived < threads; yields++) {
      if (yields > MAX_YIELDS) {
        late = true;
        return;
      }
      sched_yield();
    }
  });
  TORCH_CHECK(!late, "the pool has fewer threads than it should have");
}

// Makes the calling thread one that may run a model. All of it belongs to a thread.
void make_ready(int threads) {
  hear_warnings();
  torch::jit::setGraphExecutorOptimize(false);
  at::set_num_threads(threads);
  raise_team(threads);
}

} // namespace

extern "C" {

const char* casemate_torch_version() {
  return TORCH_VERSION;
}

// The vector instructions that are used on this CPU.
int casemate_cpu_capability(Report* report) {
  return guarded(report, [&] { return say(report, OK, at::get_cpu_capability().c_str()); });
}

// What every model runs under.
int casemate_setup(int code, Report* report) {
  return guarded(report, [&] {
    casemate_tame(code != 0);
    torch::jit::setPrintHandler(print);
    hear_warnings();
    // Without a buffer, stdio asks nothing about what stdout is.
    setvbuf(stdout, nullptr, _IONBF, 0);
    return OK;
  });
}

int casemate_load(const uint8_t* bytes, size_t length, Shelf* shelf, Loaded** loaded, Report* report) {
  return guarded(report, [&] {
    torch::jit::Module module = casemate_read(bytes, length, *shelf);
    module.eval();
    auto forward = module.find_method("forward");
    if (!forward.has_value()) {
      return say(report, MODEL, "the module has no forward method");
    }
    *loaded = new Loaded{module, *forward};
    return OK;
  });
}

// Another module of the same weights, and of nothing else; or a reason why there can be none.
int casemate_another(const Loaded* loaded, Loaded** another, Report* report) {
  return guarded(report, [&] {
    torch::jit::Module module = casemate_copy(loaded->module);
    auto forward = module.find_method("forward");
    if (!forward.has_value()) {
      return say(report, MODEL, "the module has no forward method");
    }
    *another = new Loaded{module, *forward};
    return OK;
  });
}

// Makes a copy with its weights in its graph, and folds what can be folded. Not `optimize_for_inference`, which writes
// operators of oneDNN's into the graph: they make code for whatever sizes they meet.
int casemate_freeze(Loaded* loaded, Report* report) {
  return guarded(report, [&] {
    loaded->frozen = torch::jit::freeze(loaded->module);
    return OK;
  });
}

// Runs both on the same inputs, and puts the copy in the place of the first one if their answers are alike.
int casemate_adopt(Loaded* loaded, const at::Tensor* const* inputs, size_t count, const char* const* names, size_t wanted,
                   double tolerance, double* apart, Report* report) {
  return guarded(report, [&] {
    TORCH_CHECK(loaded->frozen.has_value(), "nothing is frozen");
    auto forward = loaded->frozen->find_method("forward");
    TORCH_CHECK(forward.has_value(), "the frozen module has no forward method");
    std::vector<at::Tensor> before, after;
    const auto run = [&](torch::jit::Method& method, std::vector<at::Tensor>& into) {
      std::vector<c10::IValue> arguments;
      for (size_t i = 0; i < count; i++) {
        // A model may change its inputs.
        arguments.emplace_back(inputs[i]->clone());
      }
      TORCH_CHECK(collect(method(std::move(arguments)), names, wanted, into), "forward returned no tensors");
    };
    run(loaded->forward, before);
    run(*forward, after);
    for (const auto* all : {&before, &after}) {
      const std::string fault = fault_of_all(*all);
      if (!fault.empty()) {
        loaded->frozen.reset();
        return say(report, OUTPUT, fault.c_str());
      }
    }
    *apart = distance(before, after);
    if (!(*apart <= tolerance)) {
      loaded->frozen.reset();
      return say(report, OUTPUT, ("its answers are " + std::to_string(*apart) + " apart").c_str());
    }
    loaded->module = *loaded->frozen;
    loaded->forward = *forward;
    loaded->frozen.reset();
    return OK;
  });
}

// What all functions and methods that came of the archive are made of, called by `forward` or not.
int casemate_graphs(const Loaded* loaded, uint8_t* names, size_t room, size_t* length, Report* report) {
  return guarded(report, [&] {
    std::set<std::string> found;
    size_t nodes = 0;
    std::vector<torch::jit::Module> modules{loaded->module};
    if (loaded->frozen.has_value()) {
      modules.push_back(*loaded->frozen);
    }
    for (const torch::jit::Module& module : modules) {
      for (torch::jit::Function* function : module._ivalue()->compilation_unit()->get_functions()) {
        if (auto* graph = torch::jit::tryToGraphFunction(*function)) {
          walk(graph->graph()->block(), found, nodes);
        }
      }
    }
    return list(found, names, room, length) ? OK : say(report, MODEL, "the graphs name too many operators");
  });
}

// Every operator that is registered.
int casemate_operators(uint8_t* names, size_t room, size_t* length, Report* report) {
  return guarded(report, [&] {
    std::set<std::string> found;
    for (const auto& op : torch::jit::getAllOperators()) {
      found.insert(op->schema().name());
    }
    return list(found, names, room, length) ? OK : say(report, MODEL, "too many operators");
  });
}

// Fills `outputs` with exactly `wanted` tensors that belong to the caller, or with none.
int casemate_forward(Loaded* loaded, const at::Tensor* const* inputs, size_t count, const char* const* names,
                     size_t wanted, at::Tensor** outputs, Report* report) {
  return guarded(report, [&] {
    std::vector<at::Tensor> tensors;
    {
      std::vector<c10::IValue> arguments;
      arguments.reserve(count);
      for (size_t i = 0; i < count; i++) {
        arguments.emplace_back(*inputs[i]);
      }
      const c10::IValue result = loaded->forward(std::move(arguments));
      if (!collect(result, names, wanted, tensors)) {
        const std::string text = "forward returned " + result.tagKind() +
            ", and not a tensor, a tuple or list of tensors, or a dictionary with a tensor for each declared output";
        return say(report, OUTPUT, text.c_str());
      }
    }
    if (tensors.size() != wanted) {
      const std::string text = "forward returned " + std::string(tensors.size() > wanted ? "more" : "fewer") +
          " tensors than the " + std::to_string(wanted) + " declared outputs";
      return say(report, OUTPUT, text.c_str());
    }
    std::vector<std::unique_ptr<at::Tensor>> owned;
    for (at::Tensor& tensor : tensors) {
      owned.push_back(std::make_unique<at::Tensor>(std::move(tensor)));
    }
    for (size_t i = 0; i < wanted; i++) {
      outputs[i] = owned[i].release();
    }
    return OK;
  });
}

// Whether a tensor is one whose bytes can be handed on at all, and its dimensions.
int casemate_look(const at::Tensor* tensor, View* view, Report* report) {
  return guarded(report, [&] {
    const char* fault = fault_of(*tensor);
    if (fault != nullptr) {
      return say(report, OUTPUT, (std::string("a tensor is ") + fault).c_str());
    }
    view->rank = tensor->sizes().size();
    for (size_t i = 0; i < view->rank; i++) {
      TORCH_CHECK(tensor->size(i) >= 0, "a dimension is negative");
      view->dims[i] = static_cast<uint64_t>(tensor->size(i));
    }
    return OK;
  });
}

// Makes a tensor that passed `casemate_look` contiguous, in its place, and points to its bytes.
int casemate_dense(at::Tensor* tensor, const uint8_t** bytes, size_t* length, Report* report) {
  return guarded(report, [&] {
    if (reaches_beyond(*tensor)) {
      return say(report, OUTPUT, "a tensor reaches beyond its storage");
    }
    *tensor = tensor->resolve_neg().contiguous();
    *bytes = static_cast<const uint8_t*>(tensor->const_data_ptr());
    *length = tensor->nbytes();
    return OK;
  });
}

// From here on every convolution is looked at: what is known goes to oneDNN, what is not is noted.
int casemate_convolutions_watch(Report* report) {
  return guarded(report, [&] {
    casemate_watch();
    return OK;
  });
}

// Runs one on zeros, so that oneDNN has its code.
int casemate_convolutions_learn(const void* one, Report* report) {
  return guarded(report, [&] {
    casemate_learn(one);
    return OK;
  });
}

// Every convolution takes the way without oneDNN again.
int casemate_convolutions_unlearn(Report* report) {
  return guarded(report, [&] {
    casemate_unlearn();
    return OK;
  });
}

// Whether there are any for the next function. Asked after each batch; nothing in it can throw.
int casemate_convolutions_any() noexcept {
  static_assert(noexcept(casemate_met_any()));
  return casemate_met_any() ? 1 : 0;
}

// Those that were met since the last call.
int casemate_convolutions_met(void* into, size_t room, size_t* count, Report* report) {
  return guarded(report, [&] {
    *count = casemate_met(into, room);
    return OK;
  });
}

// Makes this thread one that may run a model, and starts the team that its operations use.
int casemate_ready_thread(int threads, Report* report) {
  return guarded(report, [&] {
    make_ready(threads);
    return OK;
  });
}

// The same for the first thread; and one thread for `torch.jit.fork`, and its team.
int casemate_start_pools(int threads, Report* report) {
  return guarded(report, [&] {
    make_ready(threads);
    std::promise<void> started;
    at::launch([&] {
      try {
        make_ready(threads);
        started.set_value();
      } catch (...) {
        started.set_exception(std::current_exception());
      }
    });
    started.get_future().get();
    return OK;
  });
}

} // extern "C"
