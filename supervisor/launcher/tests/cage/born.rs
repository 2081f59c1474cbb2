//! Every descriptor that a program was born with, wanted or not.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use casemate_ipc::inherited;

pub(crate) struct Born {
    pub(crate) numbers: Vec<i32>,
    kept: BTreeMap<i32, OwnedFd>,
}

impl Born {
    /// First thing, before this program opens any.
    pub(crate) fn look() -> Self {
        let mut kept: BTreeMap<_, _> = (0..64).filter_map(|n| Some((n, inherited::take(n).ok()?))).collect();
        let numbers = kept.keys().copied().collect();
        // Those belong to the library.
        (0..3).for_each(|n| std::mem::forget(kept.remove(&n)));
        Self { numbers, kept }
    }

    pub(crate) fn take(&mut self, number: i32) -> OwnedFd {
        self.kept.remove(&number).unwrap()
    }
}
