//! The C functions of `libtorch.cpp`, as safe ones.
//!
//! What C++ writes is only what the caller lent to it for the call, and no exception ever comes out of it.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};

use casemate_ipc::shm::map::Private;
use casemate_ipc::tensor::{MAX_RANK, Shape};
use casemate_ipc::work::MAX_DETAIL;
use tch::{Device, Kind, Tensor};
use thiserror::Error;

use crate::model::gate::Place;

/// What went wrong in C++, with its own words.
#[derive(Debug, Error)]
pub enum Fault {
    /// The model raised an error, or is not a model.
    #[error("{0}")]
    Model(String),
    /// There was not enough memory.
    #[error("{0}")]
    Memory(String),
    /// What the model returned cannot be handed on.
    #[error("{0}")]
    Output(String),
}

/// A module with its `forward`. Each instance of a worker has one for its whole life, so none is ever freed.
#[derive(Debug)]
pub struct Module {
    loaded: NonNull<Loaded>,
}

// SAFETY: the C++ object belongs to this value alone and to no thread: it goes to the thread that runs it, which
// `ready_thread` or `start_pools` made ready. What several modules share beneath it (weights, functions and their plans) is
// counted atomically, read only or behind libtorch's own locks, and it runs one function on many threads by design. That a
// model changes its own weights while others read them changes numbers of its own, in its own cell.
unsafe impl Send for Module {}

/// libtorch's version, as its headers say.
pub fn version() -> &'static str {
    // SAFETY: the function takes nothing and returns the address of a string literal.
    let text = unsafe { casemate_torch_version() };
    // SAFETY: a string literal ends with NUL and lives as long as the program.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().unwrap_or("unknown")
}

/// The vector instructions that libtorch uses on this CPU.
pub fn cpu_capability() -> String {
    let mut text = [0; 64];
    let mut report = Report { text: text.as_mut_ptr(), room: text.len(), length: 0 };
    // SAFETY: `report` and its text are alive for the call, which writes no more than there is room for.
    let code = unsafe { casemate_cpu_capability(&raw mut report) };
    if code != OK {
        return "unknown".to_owned();
    }
    String::from_utf8_lossy(text.get(..report.length).unwrap_or_default()).into_owned()
}

/// Every operator that this libtorch has registered, in full.
pub fn operators() -> Result<BTreeSet<String>, Fault> {
    let mut names = vec![0; MAX_NAMES];
    let mut length = 0;
    Report::collect(|report| {
        // SAFETY: C++ writes at most `names.len()` bytes, and the rest is alive for the call.
        unsafe { casemate_operators(names.as_mut_ptr(), names.len(), &raw mut length, report) }
    })?;
    Ok(lines(names.get(..length).unwrap_or_default()))
}

fn lines(names: &[u8]) -> BTreeSet<String> {
    names.split(|b| *b == b'\n').filter(|n| !n.is_empty()).map(|n| String::from_utf8_lossy(n).into()).collect()
}

/// Sets what every model runs under: prints and warnings into the log, and oneDNN, which writes machine code, only with
/// `code`.
pub fn setup(code: bool) -> Result<(), Fault> {
    Report::collect(|report| {
        // SAFETY: `report` is alive for the call; the function touches libtorch's own globals only.
        unsafe { casemate_setup(c_int::from(code), report) }
    })
}

/// Makes the calling thread one that may run a model, and starts the threads that its operations use; they have done their
/// first work, and rest, when this returns.
pub fn ready_thread(threads: c_int) -> Result<(), Fault> {
    Report::collect(|report| {
        // SAFETY: `report` is alive for the call; what the new threads use of the call's frame, they have used when it returns.
        unsafe { casemate_ready_thread(threads, report) }
    })
}

/// Starts every thread that a model may use; each has done its first work, and rests, when this returns.
pub fn start_pools(threads: c_int) -> Result<(), Fault> {
    Report::collect(|report| {
        // SAFETY: `report` is alive for the call; what the new threads use of the call's frame, they have used when it returns.
        unsafe { casemate_start_pools(threads, report) }
    })
}

/// A tensor whose bytes `fill` writes.
pub fn input<E>(
    kind: Kind,
    shape: &Shape,
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<Result<Tensor, E>, Fault> {
    let dims: Option<Vec<i64>> = shape.dims().iter().map(|d| i64::try_from(*d).ok()).collect();
    let dims = dims.ok_or_else(|| Fault::Memory(format!("shape {shape} is beyond any memory")))?;
    let mut tensor = Tensor::f_empty(dims, (kind, Device::Cpu)).map_err(|e| Fault::Memory(e.to_string()))?;
    let (start, length) = dense_parts(&mut tensor)?;
    let Some(start) = NonNull::new(start.cast_mut()).filter(|_| length > 0) else {
        return Ok(fill(&mut []).map(|()| tensor));
    };
    // SAFETY: the tensor was made two lines above, dense and on the CPU, so it owns `length` bytes from `start` on; it is
    // moved nowhere while the slice lives, and nobody else knows it. The bytes come from C++, whose allocations Rust sees
    // as initialised, and every pattern is a `u8`.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) };
    Ok(fill(bytes).map(|()| tensor))
}

/// The shape of a tensor that nobody may trust; an error if its bytes cannot be handed on at all.
pub fn look(tensor: &Tensor) -> Result<Shape, Fault> {
    let mut view = View { rank: 0, dims: [0; MAX_RANK] };
    Report::collect(|report| {
        // SAFETY: a tch `Tensor` is a pointer to a live `at::Tensor`; `view` and `report` are alive for the call.
        unsafe { casemate_look(tensor.as_ptr().cast(), &raw mut view, report) }
    })?;
    let rank = usize::try_from(view.rank).unwrap_or(MAX_RANK).min(MAX_RANK);
    let dims = view.dims.iter().take(rank).copied().collect();
    Shape::new(dims).map_err(|e| Fault::Output(e.to_string()))
}

/// The bytes of a tensor that passed [`look`]; it is made dense first, which may copy it.
pub fn dense(tensor: &mut Tensor) -> Result<&[u8], Fault> {
    let (start, length) = dense_parts(tensor)?;
    if start.is_null() || length == 0 {
        return Ok(&[]);
    }
    // SAFETY: C++ checked that the tensor is contiguous and lies inside its storage, which lives as long as the tensor, and
    // that stays borrowed. The worker's own code writes no output. A model can, from a fork that it never waited for, or
    // by having taken the process over; then these bytes are any bytes, which is what the front takes them for.
    Ok(unsafe { std::slice::from_raw_parts(start, length) })
}

fn dense_parts(tensor: &mut Tensor) -> Result<(*const u8, usize), Fault> {
    let mut start: *const u8 = ptr::null();
    let mut length = 0;
    Report::collect(|report| {
        // SAFETY: a tch `Tensor` is a pointer to a live `at::Tensor`, exclusively borrowed here; the rest is alive for the call.
        unsafe { casemate_dense(tensor.as_mut_ptr().cast(), &raw mut start, &raw mut length, report) }
    })?;
    Ok((start, length))
}

impl Module {
    /// Loads a TorchScript archive from where it lies; nothing of `archive` is referred to afterwards.
    pub fn load(archive: &[u8]) -> Result<Self, Fault> {
        Self::read(archive, &mut Shelf { own: ptr::null_mut(), length: 0, places: ptr::null(), count: 0, used: 0 })
    }

    /// The same, with tensors that are not copied but lie in `own`, which is a mapping of the same file and stays until the
    /// process ends: those whose bytes are one of `places`, in order and apart from each other. How many that are. What is
    /// not aligned as libtorch aligns it is copied all the same.
    pub fn load_in(archive: &[u8], own: Private, places: &[Place]) -> Result<(Self, usize), Fault> {
        let (start, length) = (own.start().as_ptr(), own.len());
        let mut shelf = Shelf { own: start, length, places: places.as_ptr(), count: places.len(), used: 0 };
        let read = Self::read(archive, &mut shelf);
        if shelf.used > 0 {
            // Tensors are never counted by us, and some live as long as the process.
            own.leak();
        }
        Ok((read?, shelf.used))
    }

    fn read(archive: &[u8], shelf: &mut Shelf) -> Result<Self, Fault> {
        let mut loaded = ptr::null_mut();
        Report::collect(|report| {
            // SAFETY: `archive`, `shelf` and its places are alive for the call, and C++ forgets their addresses before it
            // returns. Tensors may keep addresses inside the shelf's mapping, which then stays mapped (`load_in`). It is
            // theirs alone: Rust has no reference into it, and writes to it stay in it.
            unsafe { casemate_load(archive.as_ptr(), archive.len(), shelf, &raw mut loaded, report) }
        })?;
        let loaded = NonNull::new(loaded).ok_or_else(|| Fault::Model("nothing was loaded".into()))?;
        Ok(Self { loaded })
    }

    /// Another one of the same weights, for another thread: attributes and containers of its own, the same tensors.
    pub fn another(&self) -> Result<Self, Fault> {
        let mut loaded = ptr::null_mut();
        Report::collect(|report| {
            // SAFETY: `self.loaded` is never freed, and nobody runs it meanwhile: that takes it exclusively.
            unsafe { casemate_another(self.loaded.as_ptr(), &raw mut loaded, report) }
        })?;
        let loaded = NonNull::new(loaded).ok_or_else(|| Fault::Model("nothing was made".into()))?;
        Ok(Self { loaded })
    }

    /// Kinds of all nodes in all graphs that came of the archive, and the classes in C++ among their types.
    pub fn graphs(&self) -> Result<BTreeSet<String>, Fault> {
        let mut names = vec![0; MAX_NAMES];
        let mut length = 0;
        Report::collect(|report| {
            // SAFETY: `loaded` is never freed; C++ writes at most `MAX_NAMES` bytes to `names`, which is as long.
            unsafe { casemate_graphs(self.loaded.as_ptr(), names.as_mut_ptr(), names.len(), &raw mut length, report) }
        })?;
        Ok(lines(names.get(..length).unwrap_or_default()))
    }

    /// Makes a frozen copy, which [`Module::graphs`] shows beside the original.
    pub fn freeze(&mut self) -> Result<(), Fault> {
        Report::collect(|report| {
            // SAFETY: `loaded` is never freed, and exclusively borrowed here; `report` is alive for the call.
            unsafe { casemate_freeze(self.loaded.as_ptr(), report) }
        })
    }

    /// Puts the frozen copy in the place of the original, if their answers are no further apart; says how far they are.
    pub fn adopt(&mut self, inputs: &[Tensor], names: &[CString], tolerance: f64) -> Result<f64, Fault> {
        let inputs: Vec<*const AtTensor> = inputs.iter().map(|tensor| tensor.as_ptr().cast()).collect();
        let names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let mut apart = f64::INFINITY;
        Report::collect(|report| {
            // SAFETY: as in `forward`; `apart` is alive for the call too.
            unsafe {
                casemate_adopt(
                    self.loaded.as_ptr(),
                    inputs.as_ptr(),
                    inputs.len(),
                    names.as_ptr(),
                    names.len(),
                    tolerance,
                    &raw mut apart,
                    report,
                )
            }
        })?;
        Ok(apart)
    }

    /// Calls `forward`. The answer has one tensor for each name: a dictionary's by name, otherwise by position.
    pub fn forward(&mut self, inputs: &[Tensor], names: &[CString]) -> Result<Vec<Tensor>, Fault> {
        let inputs: Vec<*const AtTensor> = inputs.iter().map(|tensor| tensor.as_ptr().cast()).collect();
        let names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let mut outputs: Vec<*mut AtTensor> = vec![ptr::null_mut(); names.len()];
        Report::collect(|report| {
            // SAFETY: `loaded` is never freed; the three lists are alive for the call and as long as their counts say;
            // inputs are live `at::Tensor`s and names end with NUL.
            unsafe {
                casemate_forward(
                    self.loaded.as_ptr(),
                    inputs.as_ptr(),
                    inputs.len(),
                    names.as_ptr(),
                    names.len(),
                    outputs.as_mut_ptr(),
                    report,
                )
            }
        })?;
        let own = |tensor: *mut AtTensor| {
            // SAFETY: on success C++ filled every place with a tensor of `new`, which is now this one's to delete.
            unsafe { Tensor::from_ptr(tensor.cast()) }
        };
        Ok(outputs.into_iter().map(own).collect())
    }
}

/// `struct Report` of the shim.
#[repr(C)]
pub(super) struct Report {
    text: *mut u8,
    room: usize,
    length: usize,
}

/// `struct Shelf` of the shim.
#[repr(C)]
struct Shelf {
    own: *mut u8,
    length: usize,
    places: *const Place,
    count: usize,
    used: usize,
}

/// `struct View` of the shim.
#[repr(C)]
struct View {
    rank: u64,
    dims: [u64; MAX_RANK],
}

/// `struct Loaded` of the shim.
#[repr(C)]
struct Loaded {
    _opaque: [u8; 0],
}

/// An `at::Tensor`; tch calls the same thing `C_tensor`.
#[repr(C)]
struct AtTensor {
    _opaque: [u8; 0],
}

/// Room for names, in bytes. All operators of libtorch 2.13 take 60 KiB.
const MAX_NAMES: usize = 256 * 1024;

const OK: c_int = 0;
const MEMORY: c_int = 2;
const OUTPUT: c_int = 3;

impl Report {
    pub(super) fn collect(call: impl FnOnce(*mut Report) -> c_int) -> Result<(), Fault> {
        let mut text = [0; MAX_DETAIL];
        let mut report = Self { text: text.as_mut_ptr(), room: text.len(), length: 0 };
        let code = call(&raw mut report);
        if code == OK {
            return Ok(());
        }
        let said = text.get(..report.length).unwrap_or_default();
        let said = String::from_utf8_lossy(said).into_owned();
        Err(match code {
            MEMORY => Fault::Memory(said),
            OUTPUT => Fault::Output(said),
            _ => Fault::Model(said),
        })
    }
}

unsafe extern "C" {
    fn casemate_torch_version() -> *const c_char;
    fn casemate_cpu_capability(report: *mut Report) -> c_int;
    fn casemate_setup(code: c_int, report: *mut Report) -> c_int;
    fn casemate_ready_thread(threads: c_int, report: *mut Report) -> c_int;
    fn casemate_start_pools(threads: c_int, report: *mut Report) -> c_int;
    fn casemate_another(loaded: *const Loaded, another: *mut *mut Loaded, report: *mut Report) -> c_int;
    fn casemate_load(
        bytes: *const u8,
        length: usize,
        shelf: *mut Shelf,
        loaded: *mut *mut Loaded,
        report: *mut Report,
    ) -> c_int;
    fn casemate_operators(names: *mut u8, room: usize, length: *mut usize, report: *mut Report) -> c_int;
    fn casemate_graphs(
        loaded: *const Loaded,
        names: *mut u8,
        room: usize,
        length: *mut usize,
        report: *mut Report,
    ) -> c_int;
    fn casemate_freeze(loaded: *mut Loaded, report: *mut Report) -> c_int;
    fn casemate_adopt(
        loaded: *mut Loaded,
        inputs: *const *const AtTensor,
        count: usize,
        names: *const *const c_char,
        wanted: usize,
        tolerance: f64,
        apart: *mut f64,
        report: *mut Report,
    ) -> c_int;
    fn casemate_forward(
        loaded: *mut Loaded,
        inputs: *const *const AtTensor,
        count: usize,
        names: *const *const c_char,
        wanted: usize,
        outputs: *mut *mut AtTensor,
        report: *mut Report,
    ) -> c_int;
    fn casemate_look(tensor: *const AtTensor, view: *mut View, report: *mut Report) -> c_int;
    fn casemate_dense(tensor: *mut AtTensor, bytes: *mut *const u8, length: *mut usize, report: *mut Report) -> c_int;
}
