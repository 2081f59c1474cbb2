//! What a worker answers, and what its deaths lead to.

use std::time::Duration;

use casemate_front::fleet::lifecycle::{End, Lifecycle, Next};
use casemate_front::fleet::sanitise::{check_declared, sanitise as front_sanitise};
use casemate_ipc::frame;
use casemate_ipc::launch::Geometry;
use casemate_ipc::shm::arena::{self, Reader};
use casemate_ipc::tensor::DType;
use casemate_ipc::work::FromWorker;
use nix::sys::uio::pwrite;

const GEOMETRY: Geometry = Geometry { slots: 2, slot_bytes: 4096 };

/// Two frames, each behind its length in two bytes, a `Verified` and a `Done`; then the number of rows, and what lies in
/// the response arena.
pub fn sanitise(data: &[u8]) {
    let Some((verified, rest)) = piece(data) else { return };
    let Some((done, rest)) = piece(rest) else { return };
    let Ok(FromWorker::Verified { declared, inside: _ }) = frame::decode::<FromWorker>(verified) else { return };
    let Ok(FromWorker::Done { batch, outputs, .. }) = frame::decode::<FromWorker>(done) else { return };
    let Some((rows, content)) = rest.split_first() else { return };
    if check_declared(&declared).is_err() {
        return;
    }
    let slot = u32::try_from(batch.0 % 3).unwrap_or(0);
    let rows = (*rows > 0).then(|| u64::from(*rows));
    let reader = filled(content);
    let Ok(believed) = front_sanitise(&reader, slot, &outputs, &declared, rows) else { return };
    assert!(slot < GEOMETRY.slots);
    assert_eq!(believed.len(), declared.signature.outputs.len());
    let bytes: u64 = believed.iter().map(|tensor| tensor.data.len() as u64).sum();
    assert!(bytes <= GEOMETRY.slot_bytes, "{bytes} bytes out of a slot of {}", GEOMETRY.slot_bytes);
    for ((tensor, spec), may) in believed.iter().zip(&declared.signature.outputs).zip(&declared.non_finite) {
        assert_eq!(Ok(tensor.data.len()), tensor.shape.bytes(spec.dtype));
        assert!(spec.check(&tensor.shape).is_ok());
        let finite = tensor.data.as_chunks().0.iter().all(|b| f32::from_le_bytes(*b).is_finite());
        assert!(*may || spec.dtype != DType::Fp32 || finite, "{spec}");
        if let (true, Some(rows)) = (declared.signature.is_batched(), rows) {
            assert_eq!(tensor.shape.dims().first(), Some(&rows));
        }
    }
}

/// Each byte is an event; the first is how many failed starts are borne.
pub fn lifecycle(data: &[u8]) {
    let Some((attempts, events)) = data.split_first() else { return };
    let attempts = u32::from(*attempts).max(1);
    let mut life = Lifecycle::new(attempts);
    let mut stillborn = 0;
    for event in events {
        let end = match event % 6 {
            0 => {
                stillborn = 0;
                life.ready();
                continue;
            }
            1 => {
                life.answered();
                continue;
            }
            2 => End::Stillborn,
            3 => End::Died,
            4 => End::Hopeless,
            _ => End::NotYet,
        };
        stillborn += u32::from(end == End::Stillborn);
        match (life.ended(end), end) {
            (Next::GiveUp, End::Hopeless) => return,
            (Next::GiveUp, End::Stillborn) => return assert!(stillborn >= attempts, "{stillborn} of {attempts}"),
            (Next::GiveUp, End::Died) => panic!("a client could switch a model off"),
            (Next::GiveUp, End::NotYet) => panic!("nothing was wrong with the model"),
            (Next::After(_), End::Hopeless) => panic!("what can never be served is tried again"),
            (Next::After(pause), _) => assert!(pause <= Duration::from_secs(60), "{pause:?}"),
        }
        assert!(stillborn < attempts);
    }
}

fn piece(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_le_bytes(*length).into())
}

fn filled(content: &[u8]) -> Reader {
    let (reader, file) = arena::responses(GEOMETRY).unwrap();
    let size = usize::try_from(2 * GEOMETRY.slot_bytes).unwrap();
    pwrite(&file, &content[..content.len().min(size)], 0).unwrap();
    reader
}
