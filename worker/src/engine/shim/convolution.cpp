// Convolutions by oneDNN where no machine code may be made any more: those whose code the warm-up had made, and no others.
//
// oneDNN writes a kernel for each set of sizes, and keeps it. So a convolution of sizes that have been run before needs no
// new page of code, whichever thread runs it and with whatever weights. `_convolution`, which every convolution of a model
// goes through, is registered anew here: what is known goes to oneDNN directly, everything else takes the way that it has
// with oneDNN switched off. oneDNN's own switch stays off: it is one for the whole process and for all operators.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ops/_convolution_native.h>
#include <ATen/ops/mkldnn_convolution_native.h>
#include <c10/core/InferenceMode.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

namespace {

constexpr size_t MAX_AXES = 3;
constexpr size_t MAX_MET = 256;

struct Axis {
  uint32_t size, kernel, stride, padding, dilation;
};

// Everything that oneDNN's choice of code depends on, but for the number of rows. Plain numbers without gaps: compared and
// hashed as bytes.
struct Sizes {
  uint32_t channels, outputs, groups, bias, last, rank;
  Axis axes[MAX_AXES];
};

struct Convolution {
  uint32_t rows;
  Sizes sizes;
};

static_assert(sizeof(Sizes) == 4 * (6 + 5 * MAX_AXES) && sizeof(Convolution) == 4 + sizeof(Sizes));

struct Hash {
  size_t operator()(const Sizes& sizes) const noexcept {
    const auto* words = reinterpret_cast<const uint32_t*>(&sizes);
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < sizeof(Sizes) / sizeof(uint32_t); i++) {
      hash = (hash ^ words[i]) * 0x100000001b3;
    }
    return hash ^ (hash >> 32);
  }
};

struct Same {
  bool operator()(const Sizes& a, const Sizes& b) const noexcept {
    return memcmp(&a, &b, sizeof(Sizes)) == 0;
  }
};

// Numbers of rows, the largest first. Written before the first model runs, and only read from then on.
using Known = std::unordered_map<Sizes, std::vector<int64_t>, Hash, Same>;

Known& known() {
  static auto* all = new Known;
  return *all;
}

// What was run without oneDNN and could have been run with it. A model's threads write here.
struct Met {
  std::mutex lock;
  std::unordered_map<Sizes, uint32_t, Hash, Same> all;
  std::vector<Convolution> news;
};

// Whether there are news. By itself, so that it can be asked without anything being made.
std::atomic<bool> any_met{false};

Met& met() {
  static auto* all = new Met;
  return *all;
}

// One call, its tensors as oneDNN takes them.
struct Call {
  at::Tensor input, weight;
  std::optional<at::Tensor> bias;
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
  int64_t rows;
  Sizes sizes;
};

at::MemoryFormat format_of(size_t dimensions, bool last) {
  return !last          ? at::MemoryFormat::Contiguous
      : dimensions == 4 ? at::MemoryFormat::ChannelsLast
                        : at::MemoryFormat::ChannelsLast3d;
}

// A tensor in this layout, and its strides those that the layout means and no others: a dimension of one can have any.
at::Tensor canonical(const at::Tensor& tensor, bool last) {
  const auto sizes = tensor.sizes();
  at::Tensor dense = tensor.contiguous(format_of(sizes.size(), last));
  std::vector<int64_t> strides(sizes.size());
  int64_t step = 1;
  const auto next = [&](size_t at) {
    strides[at] = step;
    step *= sizes[at];
  };
  if (last) {
    next(1);
  }
  for (size_t at = sizes.size() - 1; at > 0; at--) {
    if (!last || at > 1) {
      next(at);
    }
  }
  next(0);
  return dense.strides() == at::IntArrayRef(strides) ? dense : dense.as_strided(sizes, strides, dense.storage_offset());
}

bool is_last(const at::Tensor& tensor) {
  const auto format = tensor.suggest_memory_format();
  return format == at::MemoryFormat::ChannelsLast || format == at::MemoryFormat::ChannelsLast3d;
}

bool plain(const at::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == at::kStrided && tensor.device().is_cpu() &&
      tensor.scalar_type() == at::kFloat && tensor.numel() > 0;
}

// A parameter for each axis, from one that may stand for all of them.
bool spread(at::IntArrayRef given, size_t axes, std::vector<int64_t>& into) {
  if (given.size() != 1 && given.size() != axes) {
    return false;
  }
  for (size_t i = 0; i < axes; i++) {
    into.push_back(given[given.size() == 1 ? 0 : i]);
  }
  return true;
}

// The call by its numbers, if it is one for oneDNN; then `input` and `weight` are not yet in their layout.
bool describe(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
              at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, Call& call) {
  const bool biased = bias.has_value() && bias->defined();
  const size_t rank = static_cast<size_t>(input.dim());
  if (rank < 3 || rank > 5 || weight.dim() != input.dim() || !plain(input) || !plain(weight) || (biased && !plain(*bias))) {
    return false;
  }
  if (!spread(stride, rank - 2, call.stride) || !spread(padding, rank - 2, call.padding) ||
      !spread(dilation, rank - 2, call.dilation)) {
    return false;
  }
  call.input = input;
  call.weight = weight;
  if (rank == 3) {
    // As libtorch does it: a picture of one line.
    call.input = input.contiguous().unsqueeze(2);
    call.weight = weight.unsqueeze(2);
    call.stride.insert(call.stride.begin(), 1);
    call.padding.insert(call.padding.begin(), 0);
    call.dilation.insert(call.dilation.begin(), 1);
  }
  if (biased) {
    if (bias->dim() != 1 || bias->size(0) != weight.size(0)) {
      return false;
    }
    call.bias = bias->contiguous();
  }
  call.groups = groups;
  call.rows = call.input.size(0);
  bool fits = true;
  const auto number = [&](int64_t value, int64_t least) {
    fits = fits && value >= least && value <= 65536;
    return static_cast<uint32_t>(value);
  };
  memset(&call.sizes, 0, sizeof(Sizes));
  Sizes& sizes = call.sizes;
  sizes.channels = number(call.input.size(1), 1);
  sizes.outputs = number(call.weight.size(0), 1);
  sizes.groups = number(groups, 1);
  sizes.bias = biased ? 1 : 0;
  sizes.last = is_last(call.input) || is_last(call.weight) ? 1 : 0;
  sizes.rank = static_cast<uint32_t>(call.input.dim() - 2);
  for (size_t i = 0; i < sizes.rank; i++) {
    sizes.axes[i] = Axis{number(call.input.size(i + 2), 1), number(call.weight.size(i + 2), 1), number(call.stride[i], 1),
                         number(call.padding[i], 0), number(call.dilation[i], 1)};
  }
  return fits && call.rows >= 1 && call.rows <= 65536 && call.weight.size(1) * groups == call.input.size(1) &&
      call.weight.size(0) % groups == 0;
}

// libtorch's own rule for when oneDNN is the faster one.
bool pays(const Sizes& sizes, int64_t rows) {
  bool strided = false, dilated = false;
  int64_t floats = rows * sizes.channels;
  for (size_t i = 0; i < sizes.rank; i++) {
    strided = strided || sizes.axes[i].stride != 1;
    dilated = dilated || sizes.axes[i].dilation != 1;
    floats *= sizes.axes[i].size;
  }
  const uint32_t a = sizes.axes[sizes.rank - 1].kernel, b = sizes.axes[sizes.rank - 2].kernel;
  return (strided || dilated || rows >= 16 || a != 1 || b != 1 || at::get_num_threads() > 1) &&
      (sizes.groups > 1 || (a > 3 && b > 3) || rows > 1 || floats > 20480);
}

at::Tensor by_onednn(const Call& call, const at::Tensor& input) {
  return at::native::mkldnn_convolution(input, call.weight, call.bias, call.padding, call.stride, call.dilation,
                                        call.groups);
}

// As many rows at once as there is code for; `pieces` ends with one row.
at::Tensor in_pieces(Call& call, const std::vector<int64_t>& pieces) {
  call.input = canonical(call.input, call.sizes.last != 0);
  call.weight = canonical(call.weight, call.sizes.last != 0);
  std::vector<at::Tensor> parts;
  for (int64_t at = 0; at < call.rows;) {
    const auto fits = [&](int64_t piece) { return piece <= call.rows - at; };
    const int64_t piece = *std::find_if(pieces.begin(), pieces.end(), fits);
    parts.push_back(by_onednn(call, piece == call.rows ? call.input : call.input.narrow(0, at, piece)));
    at += piece;
  }
  return parts.size() == 1 ? parts.front() : at::cat(parts, 0);
}

void note(const Call& call) {
  // A power of two, so that it is not said for each number of rows.
  uint32_t rows = 1;
  while (rows < call.rows) {
    rows *= 2;
  }
  Met& all = met();
  const std::lock_guard<std::mutex> guard(all.lock);
  const auto found = all.all.find(call.sizes);
  if (found == all.all.end() ? all.all.size() >= MAX_MET : found->second >= rows) {
    return;
  }
  all.all[call.sizes] = rows;
  any_met = true;
  for (Convolution& news : all.news) {
    if (Same()(news.sizes, call.sizes)) {
      news.rows = rows;
      return;
    }
  }
  all.news.push_back(Convolution{rows, call.sizes});
}

at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                       at::IntArrayRef output_padding, int64_t groups, bool benchmark, bool deterministic, bool cudnn,
                       bool tf32) {
  Call call;
  if (!transposed && describe(input, weight, bias, stride, padding, dilation, groups, call)) {
    const auto found = known().find(call.sizes);
    // Without one row there would be batches that the pieces do not add up to.
    if (found == known().end() || found->second.back() != 1) {
      // Alone it may not pay, and in a batch it does.
      if (pays(call.sizes, std::max<int64_t>(call.rows, 2))) {
        note(call);
      }
    } else if (pays(call.sizes, call.rows)) {
      at::Tensor output = in_pieces(call, found->second);
      return input.dim() == 3 ? output.squeeze(2) : output;
    }
  }
  return at::native::_convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups,
                                  benchmark, deterministic, cudnn, tf32);
}

} // namespace

// Puts the function above into libtorch's table of operators, for the life of the process.
void casemate_watch() {
  static auto* table = new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::CPU, __FILE__, __LINE__);
  table->impl("_convolution", &convolution);
}

// Runs one on zeros, and knows it from then on if that went well. Throws otherwise.
void casemate_learn(const void* given) {
  const auto* wanted = static_cast<const Convolution*>(given);
  const Sizes& sizes = wanted->sizes;
  TORCH_CHECK(sizes.rank >= 2 && sizes.rank <= MAX_AXES && sizes.groups > 0, "no convolution");
  std::vector<int64_t> input{wanted->rows, sizes.channels}, weight{sizes.outputs, sizes.channels / sizes.groups};
  Call call;
  for (size_t i = 0; i < sizes.rank; i++) {
    const Axis& axis = sizes.axes[i];
    input.push_back(axis.size);
    weight.push_back(axis.kernel);
    call.stride.push_back(axis.stride);
    call.padding.push_back(axis.padding);
    call.dilation.push_back(axis.dilation);
  }
  call.groups = sizes.groups;
  // In their layout from the start: a copy would be as much memory again.
  const bool last = sizes.last != 0;
  const auto zeros = [&](const std::vector<int64_t>& dims) {
    const auto options = at::TensorOptions(at::kFloat).memory_format(format_of(dims.size(), last));
    return canonical(at::empty(dims, options).zero_(), last);
  };
  call.input = zeros(input);
  call.weight = zeros(weight);
  if (sizes.bias != 0) {
    call.bias = at::zeros({sizes.outputs}, at::kFloat);
  }
  by_onednn(call, call.input);
  std::vector<int64_t>& pieces = known()[sizes];
  pieces.push_back(wanted->rows);
  std::sort(pieces.begin(), pieces.end(), std::greater<int64_t>());
}

void casemate_unlearn() {
  known().clear();
}

// Whether something was met since it was last asked.
bool casemate_met_any() noexcept {
  return any_met;
}

// What was met since it was last asked, at most `room`.
size_t casemate_met(void* into, size_t room) {
  Met& all = met();
  const std::lock_guard<std::mutex> guard(all.lock);
  const size_t count = std::min(room, all.news.size());
  memcpy(into, all.news.data(), count * sizeof(Convolution));
  all.news.clear();
  any_met = false;
  return count;
}
