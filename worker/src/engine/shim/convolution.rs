//! The C functions of `convolution.cpp`, as safe ones.

use casemate_ipc::convolution::{Axis, Convolution, MAX_CONVOLUTIONS};

use super::libtorch::{Fault, Report};

/// From here on every convolution of a model is looked at.
pub fn watch() -> Result<(), Fault> {
    Report::collect(|report| {
        // SAFETY: `report` is alive for the call; the function touches libtorch's own tables only.
        unsafe { casemate_convolutions_watch(report) }
    })
}

/// Runs one on zeros, so that oneDNN has its code, and uses it from then on.
pub fn learn(one: &Convolution) -> Result<(), Fault> {
    let given = Given::from(one);
    Report::collect(|report| {
        // SAFETY: C++ reads one `Given` and keeps nothing of it; both are alive for the call.
        unsafe { casemate_convolutions_learn(&raw const given, report) }
    })
}

/// Uses none any more.
pub fn unlearn() -> Result<(), Fault> {
    Report::collect(|report| {
        // SAFETY: `report` is alive for the call; no model runs yet, so nobody reads what is cleared.
        unsafe { casemate_convolutions_unlearn(report) }
    })
}

/// Those that ran without oneDNN since this was last asked, and could have run with it.
pub fn met() -> Result<Vec<Convolution>, Fault> {
    // SAFETY: it takes nothing, and reads one flag that may be read at any time.
    if unsafe { casemate_convolutions_any() } == 0 {
        return Ok(Vec::new());
    }
    let mut found = vec![Given::default(); MAX_CONVOLUTIONS];
    let mut count = 0;
    Report::collect(|report| {
        // SAFETY: C++ writes at most as many as there is room for, and their number; all are alive for the call.
        unsafe { casemate_convolutions_met(found.as_mut_ptr(), found.len(), &raw mut count, report) }
    })?;
    let found = found.iter().take(count).map(Convolution::from);
    // What is beyond the bounds would be refused when it is read again.
    Ok(found.filter(|one| one.check().is_ok()).collect())
}

const AXES: usize = 3;

/// `struct Convolution` of the shim: numbers without gaps.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Given {
    rows: u32,
    channels: u32,
    outputs: u32,
    groups: u32,
    bias: u32,
    last: u32,
    rank: u32,
    axes: [[u32; 5]; AXES],
}

impl From<&Convolution> for Given {
    fn from(one: &Convolution) -> Self {
        let Convolution { channels, outputs, groups, bias, last, axes: given, rows } = one;
        let mut axes = [[0; 5]; AXES];
        for (axis, given) in axes.iter_mut().zip(given) {
            *axis = [given.size, given.kernel, given.stride, given.padding, given.dilation];
        }
        Self {
            rows: *rows,
            channels: *channels,
            outputs: *outputs,
            groups: *groups,
            bias: (*bias).into(),
            last: (*last).into(),
            rank: u32::try_from(given.len()).unwrap_or(u32::MAX),
            axes,
        }
    }
}

impl From<&Given> for Convolution {
    fn from(given: &Given) -> Self {
        let Given { rows, channels, outputs, groups, bias, last, rank, axes } = *given;
        let axis =
            |[size, kernel, stride, padding, dilation]: [u32; 5]| Axis { size, kernel, stride, padding, dilation };
        let axes = axes.into_iter().take(usize::try_from(rank).unwrap_or(0)).map(axis).collect();
        Self { channels, outputs, groups, bias: bias != 0, last: last != 0, axes, rows }
    }
}

unsafe extern "C" {
    fn casemate_convolutions_any() -> i32;
    fn casemate_convolutions_watch(report: *mut Report) -> i32;
    fn casemate_convolutions_learn(one: *const Given, report: *mut Report) -> i32;
    fn casemate_convolutions_unlearn(report: *mut Report) -> i32;
    fn casemate_convolutions_met(found: *mut Given, room: usize, count: *mut usize, report: *mut Report) -> i32;
}
