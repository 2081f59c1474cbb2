//! Writes TorchScript archives from source text, with neither Python nor libtorch.
//!
//! A test says what a model does in a few lines of TorchScript; the forge packs them as `torch.jit.save` would:
//!
//! ```text
//! M/data/0, M/data/1 …     the values of the tensors, little-endian f32
//! M/data.pkl               the root object: its class, and its attributes or its state
//! M/code/__torch__.py      the source: free functions, classes of submodules, the root class
//! M/constants.pkl          an empty tuple: the source keeps its constants to itself
//! M/version, M/byteorder   "3" and "little"
//! ```
//!
//! Every record is stored, none deflated. The loader does without `*.debug_pkl`, without `.data/serialization_id` and
//! without the 64-byte alignment of tensors, so the forge leaves them out.
//!
//! # The dialect
//!
//! The loader reads `code/` with TorchScript's own parser, so nearly all of TorchScript is understood, not only the
//! stiff form that `torch.jit.save` writes. As tried on torch 2.13.0:
//!
//! - `self` needs no type; an argument or a result without one is a `Tensor`. Indentation is free. Methods may be
//!   called before they are defined (`self.act(x)`); a free function is called `__torch__.act(x)`.
//! - Operators are `torch.relu(x)`, `x.relu()` or `ops.aten.relu(x)`; only `ops` reaches the other namespaces
//!   (`ops.inductor._reinterpret_tensor(…)`). There is no `torch.ops`, `torch.nn`, `math`, `f"…"` or `with`.
//! - A dtype is its number: 0 uint8, 1 int8, 2 int16, 3 int32, 4 int64, 5 half, 6 float, 7 double, 11 bool,
//!   15 bfloat16. `torch.float64` is refused. `nan` and `inf` are names.
//! - `raise` knows no exception type. `ops.prim.RaiseException("text", "builtins.RuntimeError")` raises.
//! - Strings know the escapes of [`literal`]; `\x41` is refused.
//! - A field without a value after `__setstate__` is refused, `training` too.
//!
//! What does not flow into the output may be deleted as dead code, and what depends on constants alone may be computed
//! ahead of its turn: let an act depend on the input and the output on the act.

mod pickle;

use std::io::{Cursor, Write as _};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

pub use self::pickle::{Claim, Tensor, Value};

/// One module in the making: a class with its attributes, and the free functions that it calls.
#[derive(Clone, Debug)]
pub struct Forge {
    name: String,
    attributes: Vec<Attribute>,
    /// Pickled in place of the attributes, for `__setstate__`.
    state: Option<Value>,
    methods: Vec<String>,
    functions: Vec<String>,
    records: Vec<(String, Vec<u8>)>,
}

/// One field of the class.
#[derive(Clone, Debug)]
struct Attribute {
    name: String,
    kind: Kind,
    value: Value,
}

/// Which of the lists at the head of the class names the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Parameter,
    Buffer,
    Plain,
}

impl Forge {
    /// A class called `name` with nothing in it but `training`, which every module has.
    pub fn new(name: &str) -> Self {
        let forge = Self {
            name: name.to_owned(),
            attributes: Vec::new(),
            state: None,
            methods: Vec::new(),
            functions: Vec::new(),
            records: Vec::new(),
        };
        forge.attribute("training", false)
    }

    /// Adds a method: the source of one `def`, indented as the caller likes.
    pub fn method(mut self, source: &str) -> Self {
        self.methods.push(source.to_owned());
        self
    }

    /// Adds the method that the engine calls; the same as [`Self::method`], for the reader.
    pub fn forward(self, source: &str) -> Self {
        self.method(source)
    }

    /// Adds a free function, called as `__torch__.<its name>(…)`.
    pub fn function(mut self, source: &str) -> Self {
        self.functions.push(source.to_owned());
        self
    }

    /// Adds a field; its type follows from the value. A submodule is a field whose value is a [`Forge`].
    pub fn attribute(self, name: &str, value: impl Into<Value>) -> Self {
        self.field(name, Kind::Plain, value.into())
    }

    /// Adds a trainable tensor.
    pub fn parameter(self, name: &str, tensor: Tensor) -> Self {
        self.field(name, Kind::Parameter, tensor.into())
    }

    /// Adds a tensor that is saved with the model but not trained.
    pub fn buffer(self, name: &str, tensor: Tensor) -> Self {
        self.field(name, Kind::Buffer, tensor.into())
    }

    /// Pickles `state` in place of the attributes and has `__setstate__` build them from it when the file is loaded.
    ///
    /// The values given to [`Self::attribute`] then only say of which type the fields are. The argument of
    /// `__setstate__` needs its type in `source`, and all fields must have a value when it returns.
    pub fn set_state(mut self, state: impl Into<Value>, source: &str) -> Self {
        let state = state.into();
        // The loader looks at `__setstate__` only beside a `__getstate__` of the same type, which nobody calls here.
        let kind = state.type_name();
        self.state = Some(state);
        self.method(&format!("def __getstate__(self) -> {kind}:\n  return uninitialized({kind})")).method(source)
    }

    /// Adds a record that torch would not write, under the archive's folder. The name is taken as it is.
    pub fn record(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.records.push((name.to_owned(), bytes.into()));
        self
    }

    /// The archive. The same calls give the same bytes.
    pub fn bytes(&self) -> Vec<u8> {
        stored(&self.name, &self.records())
    }

    /// What would be in the archive, for a test that packs it otherwise: names below the archive's folder, and bytes.
    pub fn records(&self) -> Vec<(String, Vec<u8>)> {
        let (object, storages) = pickle::object(self);
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        for (key, storage) in storages.into_iter().enumerate() {
            records.push((format!("data/{key}"), storage));
        }
        records.push(("data.pkl".to_owned(), object));
        records.push(("code/__torch__.py".to_owned(), self.source().into_bytes()));
        records.push(("constants.pkl".to_owned(), pickle::empty_tuple()));
        records.push(("version".to_owned(), b"3\n".to_vec()));
        records.push(("byteorder".to_owned(), b"little".to_vec()));
        records.extend(self.records.iter().cloned());
        records
    }

    fn field(mut self, name: &str, kind: Kind, value: Value) -> Self {
        self.attributes.push(Attribute { name: name.to_owned(), kind, value });
        self
    }

    fn source(&self) -> String {
        let mut source = String::new();
        self.write_functions(&mut source);
        self.write_classes(&mut source);
        source
    }

    fn write_functions(&self, source: &mut String) {
        for module in self.submodules() {
            module.write_functions(source);
        }
        for function in &self.functions {
            source.push_str(function);
            source.push('\n');
        }
    }

    fn write_classes(&self, source: &mut String) {
        for module in self.submodules() {
            module.write_classes(source);
        }
        source.push_str(&format!("class {}(Module):\n", self.name));
        source.push_str(&format!("  __parameters__ = [{}]\n", self.names_of(Kind::Parameter)));
        source.push_str(&format!("  __buffers__ = [{}]\n", self.names_of(Kind::Buffer)));
        for attribute in &self.attributes {
            source.push_str(&format!("  {} : {}\n", attribute.name, attribute.value.type_name()));
        }
        for line in self.methods.iter().flat_map(|method| method.lines()) {
            source.push_str(&format!("  {line}\n"));
        }
    }

    fn submodules(&self) -> impl Iterator<Item = &Forge> {
        self.attributes.iter().filter_map(|attribute| match &attribute.value {
            Value::Module(module) => Some(module.as_ref()),
            _ => None,
        })
    }

    /// As torch writes it, with a comma after each.
    fn names_of(&self, kind: Kind) -> String {
        let named = self.attributes.iter().filter(|attribute| attribute.kind == kind);
        named.map(|attribute| format!("{}, ", literal(&attribute.name))).collect()
    }
}

impl Forge {
    /// The name of the class, and of the folder in the archive.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A TorchScript string literal that means `text`.
pub fn literal(text: &str) -> String {
    let mut literal = String::from("\"");
    for c in text.chars() {
        match c {
            '\\' => literal.push_str("\\\\"),
            '"' => literal.push_str("\\\""),
            '\n' => literal.push_str("\\n"),
            // The one numeric escape that the parser takes is octal, of three digits.
            c if c.is_ascii_control() => literal.push_str(&format!("\\{:03o}", u32::from(c))),
            c => literal.push(c),
        }
    }
    literal.push('"');
    literal
}

/// An archive of these records, below a folder.
#[expect(clippy::expect_used, reason = "a vector takes every byte; a forge that cannot write is a mistake in the test")]
pub fn stored(folder: &str, records: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in records {
        archive.start_file(format!("{folder}/{name}"), options).expect("a record begins");
        archive.write_all(bytes).expect("a record is written");
    }
    archive.finish().expect("the archive ends").into_inner()
}

#[cfg(test)]
mod tests;
