// Another module of the same weights, for another thread.
//
// What a forward can change of a module is an instance's own: objects, lists, dictionaries, and tensors with their sizes
// and strides. Only the numbers behind the tensors are shared, and that memory can no longer be moved. No code of the
// model's runs for a copy: an object that knows how to be copied is copied attribute by attribute like any other.
// What cannot be copied so is an error, and never shared.

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <memory>
#include <string>
#include <vector>

namespace {

// Values of an archive nest no deeper than 256; code that runs while it is loaded could nest them deeper.
constexpr int MAX_NESTING = 512;

[[noreturn]] void refuse(const std::string& what) {
  TORCH_CHECK(false, "it can be run by one instance only: ", what, "; set instances to 1, or workers to more");
}

using Copies = c10::IValue::HashIdentityIValueMap;

c10::IValue copy(const c10::IValue& value, Copies& copies, int depth);

c10::IValue copy_tensor(const at::Tensor& tensor) {
  if (!tensor.defined()) {
    return tensor;
  }
  if (tensor.is_nested() || tensor.layout() != at::kStrided || !tensor.has_storage()) {
    refuse("it has a tensor of a layout that consists of other tensors");
  }
  if (tensor.is_quantized() && tensor.qscheme() != at::kPerTensorAffine) {
    refuse("it has a tensor whose scale is another tensor");
  }
  // From now on nobody may give it other memory, and take this away from under the rest.
  tensor.storage().unsafeGetStorageImpl()->set_resizable(false);
  return tensor.detach();
}

c10::IValue copy_tuple(const c10::IValue& value, Copies& copies, int depth) {
  const auto& tuple = value.toTupleRef();
  std::vector<c10::IValue> parts;
  for (const c10::IValue& part : tuple.elements()) {
    parts.push_back(copy(part, copies, depth));
  }
  const auto type = tuple.type();
  const bool named = type->schema() != nullptr;
  return named ? c10::ivalue::Tuple::createNamed(std::move(parts), type) : c10::ivalue::Tuple::create(std::move(parts));
}

// Each value once, so that what refers to the same one before does so afterwards.
c10::IValue copy(const c10::IValue& value, Copies& copies, int depth) {
  if (value.isNone() || value.isInt() || value.isDouble() || value.isBool() || value.isDevice()) {
    return value;
  }
  // Pointers, but to what nobody can change.
  if (value.isString() || value.isComplexDouble() || value.isEnum()) {
    return value;
  }
  if (depth > MAX_NESTING) {
    refuse("its values nest too deep");
  }
  const auto found = copies.find(value);
  if (found != copies.end()) {
    return found->second;
  }
  if (value.isTensor()) {
    return copies[value] = copy_tensor(value.toTensor());
  }
  if (value.isTuple()) {
    return copies[value] = copy_tuple(value, copies, depth + 1);
  }
  if (value.isList()) {
    const c10::List<c10::IValue> list = value.toList();
    c10::impl::GenericList made(list.elementType());
    copies[value] = made;
    made.reserve(list.size());
    for (const c10::IValue& item : value.toListRef()) {
      made.push_back(copy(item, copies, depth + 1));
    }
    return made;
  }
  if (value.isGenericDict()) {
    const c10::impl::GenericDict dict = value.toGenericDict();
    c10::impl::GenericDict made(dict.keyType(), dict.valueType());
    copies[value] = made;
    for (const auto& item : dict) {
      made.insert_or_assign(copy(item.key(), copies, depth + 1), copy(item.value(), copies, depth + 1));
    }
    return made;
  }
  if (value.isObject() && !value.isCapsule() && !value.isCustomClass()) {
    const auto object = value.toObject();
    const auto made = object->copy();
    copies[value] = made;
    for (size_t i = 0; i < object->slots().size(); i++) {
      made->setSlot(i, copy(object->slots()[i], copies, depth + 1));
    }
    return made;
  }
  if (value.isObject() || value.isCapsule()) {
    refuse("it has an object of C++'s, " + value.type()->str());
  }
  refuse("it has a value of a kind that cannot be copied, " + value.tagKind());
}

bool holds_tensors(const c10::TypePtr& type, int depth) {
  if (depth > MAX_NESTING || type->kind() == c10::TypeKind::TensorType) {
    return true;
  }
  // What an object's attributes are is not looked at.
  const auto kind = type->kind();
  if (kind == c10::TypeKind::ClassType || kind == c10::TypeKind::AnyType || kind == c10::TypeKind::InterfaceType) {
    return true;
  }
  for (const c10::TypePtr& inner : type->containedTypes()) {
    if (holds_tensors(inner, depth + 1)) {
      return true;
    }
  }
  return false;
}

// All nodes of a graph; graphs in attributes are not gone into.
std::vector<torch::jit::Node*> nodes_of(torch::jit::Graph& graph) {
  std::vector<torch::jit::Node*> all;
  std::vector<torch::jit::Block*> blocks{graph.block()};
  while (!blocks.empty()) {
    torch::jit::Block* block = blocks.back();
    blocks.pop_back();
    for (torch::jit::Node* node : block->nodes()) {
      all.push_back(node);
      for (torch::jit::Block* inner : node->blocks()) {
        blocks.push_back(inner);
      }
    }
  }
  return all;
}

// Constants in the code are not copied: all instances run the same code. Nothing may write to one, for what writes could
// change its sizes.
void check_constants(const torch::jit::Module& module) {
  const auto* forward = torch::jit::tryToGraphFunction(module.get_method("forward").function());
  if (forward == nullptr) {
    refuse("its forward is not code of its own");
  }
  const std::shared_ptr<torch::jit::Graph> graph = const_cast<torch::jit::GraphFunction*>(forward)->graph()->copy();
  torch::jit::Inline(*graph);
  const auto is_constant = [](const torch::jit::Node* node) {
    return node->kind() == c10::prim::Constant && holds_tensors(node->output()->type(), 0);
  };
  const std::vector<torch::jit::Node*> nodes = nodes_of(*graph);
  bool constants = false, elsewhere = false;
  for (const torch::jit::Node* node : nodes) {
    constants = constants || is_constant(node);
    elsewhere = elsewhere || node->kind() == c10::prim::CallMethod || node->kind() == c10::prim::CallFunction;
    for (const auto& name : node->attributeNames()) {
      elsewhere = elsewhere || node->kindOf(name) == torch::jit::AttributeKind::g;
    }
  }
  if (elsewhere) {
    // Then the code behind may have constants too, or be given some.
    for (torch::jit::Function* function : module._ivalue()->compilation_unit()->get_functions()) {
      if (auto* other = torch::jit::tryToGraphFunction(*function)) {
        std::vector<std::shared_ptr<torch::jit::Graph>> graphs{other->graph()};
        while (!graphs.empty()) {
          const std::shared_ptr<torch::jit::Graph> inner = graphs.back();
          graphs.pop_back();
          for (const torch::jit::Node* node : nodes_of(*inner)) {
            constants = constants || is_constant(node);
            for (const auto& name : node->attributeNames()) {
              if (node->kindOf(name) == torch::jit::AttributeKind::g) {
                graphs.push_back(node->g(name));
              }
            }
          }
        }
      }
    }
    if (constants) {
      refuse("its code has constants, and calls that cannot be followed");
    }
  }
  if (!constants) {
    return;
  }
  const torch::jit::AliasDb aliases(graph);
  auto all = aliases.getValueAndMemoryLocationSet();
  for (torch::jit::Node* node : nodes) {
    if (is_constant(node)) {
      all.insert(node->output());
    }
  }
  for (torch::jit::Node* node : nodes) {
    // What has blocks writes by the nodes in them, which are among these.
    if (node->blocks().empty() && aliases.writesToAlias(node, all)) {
      refuse("its code may change a constant of its own, by " + std::string(node->kind().toQualString()));
    }
  }
}

} // namespace

// Throws where the two would share more than numbers.
torch::jit::Module casemate_copy(const torch::jit::Module& module) {
  check_constants(module);
  Copies copies;
  return torch::jit::Module(copy(module._ivalue(), copies, 0).toObject());
}
