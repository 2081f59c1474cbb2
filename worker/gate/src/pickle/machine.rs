//! The machine: one opcode at a time, a stack, marks, a memo.

use casemate_ipc::work::GateCode::{self, PickleOpcode, PickleSize, TensorDevice};

use super::fit::Types;
use super::global::{self, Found, Global};
use super::value::{Arena, Node, Value};
use super::{Pickled, Surroundings};
use crate::cursor::Cursor;
use crate::refusal::{Refusal, shown};
use crate::tensor::Storage;

/// Longest module or class name.
const MAX_NAME: usize = 1024;

/// Runs a pickle to its end.
pub fn walk(bytes: &[u8], around: &Surroundings<'_>) -> Result<Pickled, Refusal> {
    let mut machine = Machine {
        cursor: Cursor::new(bytes, 0),
        around,
        arena: Arena::default(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        globals: Vec::new(),
        types: Types::default(),
        found: Pickled::default(),
    };
    let mut at = 0;
    let stopped = (|| {
        machine.begin()?;
        loop {
            at = machine.cursor.at();
            if machine.step()? {
                return machine.end();
            }
        }
    })();
    match stopped {
        Ok(()) => Ok(machine.found),
        Err(Fault { code, why }) => Err(Refusal::record(code, around.record, at, why)),
    }
}

pub(super) struct Machine<'a, 's> {
    cursor: Cursor<'a>,
    pub(super) around: &'s Surroundings<'s>,
    pub(super) arena: Arena<'a>,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: Vec<Value<'a>>,
    pub(super) globals: Vec<Global>,
    pub(super) types: Types,
    pub(super) found: Pickled,
}

/// What is wrong at the opcode.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: GateCode,
    pub(super) why: String,
}

impl Fault {
    pub(super) fn new(code: GateCode, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }
}

/// Plain words are about the opcode; limits say their own code.
impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        Self::new(PickleOpcode, why)
    }
}

const CUT: &str = "the pickle is cut off";

impl<'a> Machine<'a, '_> {
    fn begin(&mut self) -> Result<(), Fault> {
        if self.cursor.array() != Some([0x80, 2]) {
            return Err("it does not begin as a pickle of protocol 2".into());
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        if !self.marks.is_empty() || !self.cursor.is_done() {
            return Err("it stops with a mark left open, or with bytes behind it".into());
        }
        let [root] = self.stack[..] else {
            return Err(Fault::new(PickleOpcode, format!("it leaves {} values; one is expected", self.stack.len())));
        };
        match self.arena.node(root) {
            Some(Node::Object(class)) => {
                if let Some(Global::Class(name)) = self.globals.get(*class) {
                    self.found.class = Some(name.clone());
                }
            }
            Some(Node::Tuple(items)) => self.found.elements = Some(items.len()),
            _ => {}
        }
        Ok(())
    }

    /// One opcode; true at the last.
    fn step(&mut self) -> Result<bool, Fault> {
        let opcode = self.cursor.u8().ok_or(CUT)?;
        match opcode {
            b'.' => return Ok(true),
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' => {
                let n = self.cursor.u8().ok_or(CUT)?;
                self.push(Value::Int(n.into()))?;
            }
            b'M' => {
                let n = self.cursor.u16().ok_or(CUT)?;
                self.push(Value::Int(n.into()))?;
            }
            b'J' => {
                let n = self.cursor.array().map(i32::from_le_bytes).ok_or(CUT)?;
                self.push(Value::Int(n.into()))?;
            }
            0x8a => {
                if self.cursor.u8().ok_or(CUT)? != 8 {
                    return Err("a long integer that is not eight bytes".into());
                }
                let n = self.cursor.array().map(i64::from_le_bytes).ok_or(CUT)?;
                self.push(Value::Int(n))?;
            }
            b'G' => {
                self.cursor.take(8).ok_or(CUT)?;
                self.push(Value::Float)?;
            }
            b'X' => {
                let length = self.cursor.u32().ok_or(CUT)?;
                let text = usize::try_from(length).ok().and_then(|n| self.cursor.take(n)).ok_or(CUT)?;
                let text = std::str::from_utf8(text).map_err(|_| "a text that is not UTF-8")?;
                self.push(Value::Text(text))?;
            }
            b'c' => self.global()?,
            b'(' => {
                self.arena.count().map_err(too_large)?;
                self.marks.push(self.stack.len());
            }
            b')' => self.node(Node::Tuple(Vec::new()), &[])?,
            b']' => self.node(Node::List(Vec::new()), &[])?,
            b'}' => self.node(Node::Dict(Vec::new()), &[])?,
            b't' => {
                let parts = self.since_mark()?;
                self.node(Node::Tuple(parts.clone()), &parts)?;
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(count).filter(|start| *start >= self.floor());
                let parts = self.stack.split_off(start.ok_or("a tuple of more than the stack holds")?);
                self.node(Node::Tuple(parts.clone()), &parts)?;
            }
            b'e' | b'u' => {
                let parts = self.since_mark()?;
                let target = self.top()?;
                let fits = matches!(
                    (opcode, self.arena.node(target)),
                    (b'e', Some(Node::List(_))) | (b'u', Some(Node::Dict(_)))
                );
                if !fits {
                    return Err("values for a list or dictionary, but none is below them".into());
                }
                self.arena.extend(target, &parts).map_err(too_large)?;
            }
            b'q' => {
                let at = self.cursor.u8().ok_or(CUT)?;
                self.put(at.into())?;
            }
            b'r' => {
                let at = self.cursor.u32().ok_or(CUT)?;
                self.put(at)?;
            }
            b'h' => {
                let at = self.cursor.u8().ok_or(CUT)?;
                self.get(at.into())?;
            }
            b'j' => {
                let at = self.cursor.u32().ok_or(CUT)?;
                self.get(at)?;
            }
            0x81 => self.new_object()?,
            b'b' => self.build()?,
            b'R' => self.reduce()?,
            b'Q' => self.storage()?,
            _ => {
                let why = format!("opcode {opcode:#04x}, which torch.jit.save never writes");
                return Err(Fault::new(PickleOpcode, why));
            }
        }
        Ok(false)
    }

    fn global(&mut self) -> Result<(), Fault> {
        let mut line = || {
            let line = self.cursor.line(MAX_NAME).ok_or("a name without an end")?;
            std::str::from_utf8(line).map_err(|_| "a name that is not UTF-8")
        };
        let (module, name) = (line()?, line()?);
        match global::find(module, name, self.around).map_err(|(code, why)| Fault::new(code, why))? {
            Found::Value(value) => self.push(value),
            Found::Global(global) => {
                if let Global::Class(name) = &global
                    && name.starts_with("__torch__.torch.classes.")
                {
                    self.found.native.push(name.clone());
                }
                self.globals.push(global);
                self.push(Value::Global(self.globals.len() - 1))
            }
        }
    }

    /// A class and an empty tuple become an object without a state.
    fn new_object(&mut self) -> Result<(), Fault> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let empty = self.arena.tuple(arguments).is_some_and(<[_]>::is_empty);
        match (class, empty) {
            (Value::Global(at), true) if matches!(self.globals.get(at), Some(Global::Class(_))) => {
                self.node(Node::New(at), &[])
            }
            _ => Err("an object of something that is no class".into()),
        }
    }

    fn build(&mut self) -> Result<(), Fault> {
        let (state, target) = (self.pop()?, self.pop()?);
        let Some(Node::New(class)) = self.arena.node(target) else {
            return Err("a state for something that is no new object".into());
        };
        let class = *class;
        self.check_attributes(class, state)?;
        self.node(Node::Object(class), &[state])
    }

    fn reduce(&mut self) -> Result<(), Fault> {
        let (arguments, called) = (self.pop()?, self.pop()?);
        let Value::Global(at) = called else { return Err("a call of something that is no function".into()) };
        let global = self.globals.get(at).cloned().ok_or(CUT)?;
        if let Global::Enum(_) = global {
            // A member, by its value; it stands there without a tuple.
            return match arguments {
                Value::Int(_) | Value::Float | Value::Text(_) => self.node(Node::Member(at), &[arguments]),
                _ => Err("a member of an enumeration by a value that is neither a number nor a text".into()),
            };
        }
        let arguments = self.arena.tuple(arguments).ok_or("a call without a tuple of arguments")?.to_vec();
        let (node, parts) = self.call(&global, &arguments)?;
        match node {
            Some(node) => self.node(node, &parts),
            None => {
                let [value] = parts[..] else { return Err("a call that gives nothing".into()) };
                self.push(value)
            }
        }
    }

    /// `("storage", type, key, device, count)`
    fn storage(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let Some(
            [Value::Text("storage"), Value::Element(element), Value::Text(key), Value::Text(device), Value::Int(count)],
        ) = self.arena.tuple(id)
        else {
            return Err("a storage that is not a type, a key, a device and a count".into());
        };
        let (element, key, device, count) = (*element, *key, *device, *count);
        if device != "cpu" {
            let why =
                format!("a storage for the device {:?}; move the model to the CPU and save it again", shown(device));
            return Err(Fault::new(TensorDevice, why));
        }
        if !self.found.used.insert(key.to_owned()) {
            // libtorch would read it once more, into memory of its own.
            return Err(Fault::new(GateCode::TensorBounds, format!("the storage {:?} is read twice", shown(key))));
        }
        let record = self.around.storages.get(key).copied();
        let storage = Storage::check(element, count, record).map_err(|why| Fault::new(GateCode::TensorBounds, why))?;
        self.found.bytes = self.found.bytes.saturating_add(storage.count.saturating_mul(element.bytes.into()));
        self.node(Node::Storage(storage), &[])
    }

    fn node(&mut self, node: Node<'a>, parts: &[Value<'a>]) -> Result<(), Fault> {
        let value = self.arena.add(node, parts).map_err(too_large)?;
        self.push(value)
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), Fault> {
        self.arena.count().map_err(too_large)?;
        self.stack.push(value);
        Ok(())
    }

    /// Nothing below the last mark may be taken: libtorch does not look.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value<'a>, Fault> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self) -> Result<Value<'a>, Fault> {
        let top = self.stack.last().filter(|_| self.stack.len() > self.floor());
        top.copied().ok_or_else(|| "it takes more from the stack than is there".into())
    }

    fn since_mark(&mut self) -> Result<Vec<Value<'a>>, Fault> {
        let start = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(start))
    }

    /// The writer counts up, so a place further on would only make libtorch's memo long.
    fn put(&mut self, at: u32) -> Result<(), Fault> {
        let value = self.top()?;
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let length = self.memo.len();
        match self.memo.get_mut(at) {
            Some(place) => *place = value,
            None if at == length => self.memo.push(value),
            None => return Err(Fault::new(PickleSize, format!("place {at} of a memo of {length}"))),
        }
        Ok(())
    }

    fn get(&mut self, at: u32) -> Result<(), Fault> {
        let value = usize::try_from(at).ok().and_then(|at| self.memo.get(at)).copied();
        self.push(value.ok_or("a place of the memo that is empty")?)
    }
}

/// A limit of the arena.
fn too_large(why: String) -> Fault {
    Fault::new(PickleSize, why)
}
