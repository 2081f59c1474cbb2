//! The objects of an archive, in the pickle dialect that libtorch's reader understands (protocol 2, no memo).

use super::Forge;

/// A value of a field or of a state.
#[derive(Clone, Debug)]
pub enum Value {
    /// `None`; a field of this type can hold nothing else.
    None,
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `float`
    Float(f64),
    /// `str`
    Str(String),
    /// `Tuple[…]`
    Tuple(Vec<Value>),
    /// `Tensor`
    Tensor(Tensor),
    /// A submodule, with its own class.
    Module(Box<Forge>),
    /// Pickle code as it is, and the type of what it is said to leave on the stack.
    Pickled {
        /// As the class declares it.
        kind: String,
        /// Opcodes.
        code: Vec<u8>,
    },
}

/// A contiguous tensor of f32.
#[derive(Clone, Debug)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
    claim: Claim,
}

/// What `data.pkl` says of a tensor in place of the truth.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// Elements of the storage.
    pub numel: Option<i64>,
    /// Where the tensor begins in it.
    pub offset: Option<i64>,
    /// Its dimensions.
    pub sizes: Option<Vec<i64>>,
    /// Its strides.
    pub strides: Option<Vec<i64>>,
}

impl Tensor {
    /// A tensor of `shape`, filled row by row. The forge does not compare the two: a lie is a test of its own.
    pub fn new(shape: &[usize], data: impl Into<Vec<f32>>) -> Self {
        Self { shape: shape.to_vec(), data: data.into(), claim: Claim::default() }
    }

    /// A tensor of zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self::new(shape, vec![0.0; shape.iter().product()])
    }

    /// The same values under another description.
    pub fn claiming(mut self, claim: Claim) -> Self {
        self.claim = claim;
        self
    }

    /// Row by row: the last dimension is dense.
    fn strides(&self) -> Vec<usize> {
        (1..=self.shape.len()).map(|next| self.shape[next..].iter().product()).collect()
    }
}

impl Value {
    /// As the class declares it.
    pub(super) fn type_name(&self) -> String {
        match self {
            Self::None => "NoneType".to_owned(),
            Self::Bool(_) => "bool".to_owned(),
            Self::Int(_) => "int".to_owned(),
            Self::Float(_) => "float".to_owned(),
            Self::Str(_) => "str".to_owned(),
            Self::Tuple(values) => {
                let types: Vec<String> = values.iter().map(Self::type_name).collect();
                format!("Tuple[{}]", types.join(", "))
            }
            Self::Tensor(_) => "Tensor".to_owned(),
            Self::Module(module) => format!("__torch__.{}", module.name),
            Self::Pickled { kind, .. } => kind.clone(),
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Str(value.to_owned())
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

impl From<Forge> for Value {
    fn from(module: Forge) -> Self {
        Self::Module(Box::new(module))
    }
}

/// `data.pkl` for the root module, and the storages that it names by their place.
pub(super) fn object(root: &Forge) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut pickler = Pickler { out: PROTOCOL_2.to_vec(), storages: Vec::new() };
    pickler.module(root);
    pickler.out.push(b'.');
    (pickler.out, pickler.storages)
}

/// `constants.pkl` for a source without constants.
pub(super) fn empty_tuple() -> Vec<u8> {
    [PROTOCOL_2, b")."].concat()
}

const PROTOCOL_2: &[u8] = b"\x80\x02";

fn int(size: &usize) -> i64 {
    i64::try_from(*size).unwrap_or(i64::MAX)
}

struct Pickler {
    out: Vec<u8>,
    storages: Vec<Vec<u8>>,
}

impl Pickler {
    /// GLOBAL class, EMPTY_TUPLE, NEWOBJ, then the state or a dictionary of the attributes, BUILD.
    fn module(&mut self, module: &Forge) {
        self.global("__torch__", &module.name);
        self.raw(b")\x81");
        if let Some(state) = &module.state {
            self.value(state);
        } else {
            self.raw(b"}(");
            for attribute in &module.attributes {
                self.text(&attribute.name);
                self.value(&attribute.value);
            }
            self.raw(b"u");
        }
        self.raw(b"b");
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::None => self.raw(b"N"),
            Value::Bool(true) => self.raw(b"\x88"),
            Value::Bool(false) => self.raw(b"\x89"),
            Value::Int(int) => self.int(*int),
            Value::Float(float) => {
                self.raw(b"G");
                self.raw(&float.to_be_bytes());
            }
            Value::Str(text) => self.text(text),
            Value::Tuple(values) => {
                self.raw(b"(");
                for value in values {
                    self.value(value);
                }
                self.raw(b"t");
            }
            Value::Tensor(tensor) => self.tensor(tensor),
            Value::Module(module) => self.module(module),
            Value::Pickled { code, .. } => self.raw(code),
        }
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)`
    fn tensor(&mut self, tensor: &Tensor) {
        let key = self.storages.len().to_string();
        self.storages.push(tensor.data.iter().flat_map(|value| value.to_le_bytes()).collect());
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.raw(b"((");
        self.text("storage");
        self.global("torch", "FloatStorage");
        self.text(&key);
        self.text("cpu");
        let Claim { numel, offset, sizes, strides } = &tensor.claim;
        self.int(numel.unwrap_or_else(|| int(&tensor.data.len())));
        self.raw(b"tQ");
        self.int(offset.unwrap_or(0));
        let ints = |sizes: &[usize]| sizes.iter().map(int).collect::<Vec<i64>>();
        let sizes = sizes.clone().unwrap_or_else(|| ints(&tensor.shape));
        let strides = strides.clone().unwrap_or_else(|| ints(&tensor.strides()));
        for sizes in [sizes, strides] {
            self.raw(b"(");
            for size in sizes {
                self.int(size);
            }
            self.raw(b"t");
        }
        self.raw(b"\x89");
        self.global("collections", "OrderedDict");
        self.raw(b")RtR");
    }

    fn global(&mut self, module: &str, name: &str) {
        self.raw(format!("c{module}\n{name}\n").as_bytes());
    }

    /// BINUNICODE
    fn text(&mut self, text: &str) {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.raw(b"X");
        self.raw(&length.to_le_bytes());
        self.raw(text.as_bytes());
    }

    /// LONG1 of eight bytes takes every i64, so the shorter forms are not needed.
    fn int(&mut self, int: i64) {
        self.raw(b"\x8a\x08");
        self.raw(&int.to_le_bytes());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}
