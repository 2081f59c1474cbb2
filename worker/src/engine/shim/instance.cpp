// Another module of the same weights, for another thread.
//
// What a forward can change of a module is an instance's own: objects, lists, dictionaries, and tensors with their sizes
// and strides, and whole numbers, which may be indices. Only the other numbers behind the tensors are shared, and that memory can no longer be moved. No code of the
// model's runs for a copy: an object that knows how to be copied is copied attribute by attribute like any other.
// What cannot be copied so is an error, and never shared.

#include <ATen/ATen.h>
#include <ATen/core/ivalue.h>
#include <c10/core/impl/COW.h>
#include <c10/util/Exception.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

// Values of an archive nest no deeper than 256; code that runs while it is loaded could nest them deeper.
constexpr int MAX_NESTING = 512;

[[noreturn]] void refuse(const std::string& what) {
  TORCH_CHECK(false, "it can be run by one instance only: ", what, "; set instances to 1, or workers to more");
}

// What has been copied, and the memory of tensors that was.
struct Copies {
  c10::IValue::HashIdentityIValueMap values;
  std::unordered_map<const c10::StorageImpl*, c10::Storage> memory;
};

c10::IValue copy(const c10::IValue& value, Copies& copies, int depth);

c10::IValue copy_tensor(const at::Tensor& tensor, Copies& copies) {
  if (!tensor.defined()) {
    return tensor;
  }
  if (tensor.is_nested() || tensor.layout() != at::kStrided || !tensor.has_storage()) {
    refuse("it has a tensor of a layout that consists of other tensors");
  }
  if (tensor.is_quantized() && tensor.qscheme() != at::kPerTensorAffine) {
    refuse("it has a tensor whose scale is another tensor");
  }
  if (c10::impl::cow::is_cow_data_ptr(tensor.storage().data_ptr())) {
    refuse("it has a tensor whose memory moves when it is written to");
  }
  if (at::isIntegralType(tensor.scalar_type(), /*includeBool=*/true)) {
    // What may be an index is checked before it is used, and must not become another in between.
    const c10::StorageImpl* shared = tensor.storage().unsafeGetStorageImpl();
    auto own = copies.memory.find(shared);
    if (own == copies.memory.end()) {
      const auto bytes = static_cast<int64_t>(shared->nbytes());
      const at::Tensor made = at::empty({bytes}, at::kByte);
      if (bytes > 0) {
        std::memcpy(made.mutable_data_ptr(), shared->data(), shared->nbytes());
      }
      made.storage().unsafeGetStorageImpl()->set_resizable(false);
      own = copies.memory.emplace(shared, made.storage()).first;
    }
    return at::empty({0}, tensor.options()).set_(own->second, tensor.storage_offset(), tensor.sizes(), tensor.strides());
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
  const auto found = copies.values.find(value);
  if (found != copies.values.end()) {
    return found->second;
  }
  if (value.isTensor()) {
    return copies.values[value] = copy_tensor(value.toTensor(), copies);
  }
  if (value.isTuple()) {
    return copies.values[value] = copy_tuple(value, copies, depth + 1);
  }
  if (value.isList()) {
    const c10::List<c10::IValue> list = value.toList();
    c10::impl::GenericList made(list.elementType());
    copies.values[value] = made;
    made.reserve(list.size());
    for (const c10::IValue& item : value.toListRef()) {
      made.push_back(copy(item, copies, depth + 1));
    }
    return made;
  }
  if (value.isGenericDict()) {
    const c10::impl::GenericDict dict = value.toGenericDict();
    c10::impl::GenericDict made(dict.keyType(), dict.valueType());
    copies.values[value] = made;
    for (const auto& item : dict) {
      made.insert_or_assign(copy(item.key(), copies, depth + 1), copy(item.value(), copies, depth + 1));
    }
    return made;
  }
  if (value.isObject() && !value.isCapsule() && !value.isCustomClass()) {
    const auto object = value.toObject();
    const auto made = object->copy();
    copies.values[value] = made;
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

// What a constant of a type can become by running.
enum class Constant { fixed, watched, unknown };

Constant kind_of(const c10::TypePtr& type, int depth) {
  if (depth > MAX_NESTING) {
    return Constant::unknown;
  }
  switch (type->kind()) {
    case c10::TypeKind::NoneType:
    case c10::TypeKind::IntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::BoolType:
    case c10::TypeKind::ComplexType:
    case c10::TypeKind::NumberType:
    case c10::TypeKind::StringType:
    case c10::TypeKind::DeviceObjType:
    case c10::TypeKind::EnumType:
    case c10::TypeKind::FunctionType:
      return Constant::fixed;
    case c10::TypeKind::TensorType:
      return Constant::watched;
    case c10::TypeKind::TupleType:
    case c10::TypeKind::OptionalType:
      for (const c10::TypePtr& inner : type->containedTypes()) {
        if (kind_of(inner, depth + 1) != Constant::fixed) {
          return Constant::unknown;
        }
      }
      return Constant::fixed;
    case c10::TypeKind::ListType:
    case c10::TypeKind::DictType:
      // What is in it could be reached by way of another name, so it must be nothing that can change.
      for (const c10::TypePtr& inner : type->containedTypes()) {
        if (kind_of(inner, depth + 1) != Constant::fixed) {
          return Constant::unknown;
        }
      }
      return Constant::watched;
    default:
      return Constant::unknown;
  }
}

// Whether a node runs code that is not in the graph: methods, functions, what stands in an attribute, and the comparison that
// a class brings along for sorting.
bool leads_elsewhere(const torch::jit::Node* node) {
  if (node->kind() == c10::prim::CallMethod || node->kind() == c10::prim::CallFunction) {
    return true;
  }
  const std::string name = node->kind().toQualString();
  if ((name == "aten::sort" || name == "aten::sorted") && !node->inputs().empty()) {
    const auto list = node->input(0)->type()->cast<c10::ListType>();
    if (list && kind_of(list->getElementType(), 0) == Constant::unknown) {
      return true;
    }
  }
  for (const auto& attribute : node->attributeNames()) {
    const auto kind = node->kindOf(attribute);
    if (kind == torch::jit::AttributeKind::g || kind == torch::jit::AttributeKind::gs) {
      return true;
    }
  }
  return false;
}

// Whether a list or a dictionary goes nowhere but into operators that neither write to it nor hand it on.
bool is_only_read(const torch::jit::Value* value) {
  if (value->type()->kind() == c10::TypeKind::TensorType) {
    return false;
  }
  for (const torch::jit::Use& use : value->uses()) {
    const c10::FunctionSchema* schema = use.user->maybeSchema();
    if (schema == nullptr || use.offset >= schema->arguments().size() ||
        schema->arguments()[use.offset].alias_info() != nullptr) {
      return false;
    }
  }
  return true;
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
  // A caller gives none of these, and every call gets the very same one.
  for (const c10::Argument& argument : forward->getSchema().arguments()) {
    const auto& value = argument.default_value();
    if (value.has_value() && kind_of(value->type(), 0) != Constant::fixed) {
      refuse("its forward has an argument that stands for itself, " + argument.name());
    }
  }
  const std::shared_ptr<torch::jit::Graph> graph = const_cast<torch::jit::GraphFunction*>(forward)->graph()->copy();
  torch::jit::Inline(*graph);
  const auto is_constant = [](const torch::jit::Node* node) {
    return node->kind() == c10::prim::Constant && kind_of(node->output()->type(), 0) != Constant::fixed;
  };
  const std::vector<torch::jit::Node*> nodes = nodes_of(*graph);
  bool constants = false, elsewhere = false;
  for (const torch::jit::Node* node : nodes) {
    if (node->kind() == c10::prim::Constant && kind_of(node->output()->type(), 0) == Constant::unknown) {
      refuse("its code has a constant that holds others, " + node->output()->type()->str());
    }
    constants = constants || (is_constant(node) && !is_only_read(node->output()));
    elsewhere = elsewhere || leads_elsewhere(node);
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
            constants = constants || (is_constant(node) && !is_only_read(node->output()));
            for (const auto& name : node->attributeNames()) {
              if (node->kindOf(name) == torch::jit::AttributeKind::g) {
                graphs.push_back(node->g(name));
              } else if (node->kindOf(name) == torch::jit::AttributeKind::gs) {
                const auto several = node->gs(name);
                graphs.insert(graphs.end(), several.begin(), several.end());
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
