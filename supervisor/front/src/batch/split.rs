//! One answer back into many: each job gets its own rows, as slices of the one copy.

use smallvec::{SmallVec, smallvec};

use super::job::{Job, Tensor, Tensors};

/// The tensors of each job, in order. `None` where the answer does not have the rows that went in: then no row can be
/// given to anybody, since nobody could say whose it is.
pub fn split(jobs: &[Job], outputs: Tensors) -> Option<SmallVec<[Tensors; 1]>> {
    if let [_] = jobs {
        return Some(smallvec![outputs]);
    }
    let total = jobs.iter().map(Job::rows).sum::<Option<u64>>()?;
    let mut first = 0;
    let mut parts = SmallVec::with_capacity(jobs.len());
    for job in jobs {
        let rows = job.rows()?;
        let part = outputs.iter().map(|tensor| cut(tensor, total, first, rows)).collect::<Option<Tensors>>()?;
        parts.push(part);
        first += rows;
    }
    Some(parts)
}

fn cut(tensor: &Tensor, total: u64, first: u64, rows: u64) -> Option<Tensor> {
    if tensor.shape.dims().first() != Some(&total) || total == 0 {
        return None;
    }
    let row = tensor.data.len() / usize::try_from(total).ok()?;
    let start = usize::try_from(first).ok()?.checked_mul(row)?;
    let end = start.checked_add(usize::try_from(rows).ok()?.checked_mul(row)?)?;
    let data = (end <= tensor.data.len()).then(|| tensor.data.slice(start..end))?;
    Some(Tensor { shape: tensor.shape.with_rows(rows), data })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;
    use casemate_ipc::tensor::Shape;

    use super::*;
    use crate::admit::permit::Room;

    fn job(rows: u64) -> Job {
        Job::new(Vec::new(), Some(rows), Instant::now(), Room::new(1).take(1).unwrap()).0
    }

    fn tensor(dims: &[u64]) -> Tensor {
        let bytes: u64 = dims.iter().product();
        Tensor { shape: Shape::new(dims.to_vec()).unwrap(), data: (0..bytes as u8).collect::<Vec<_>>().into() }
    }

    #[test]
    fn everybody_gets_exactly_their_rows() {
        let jobs = [job(1), job(2)];
        let parts = split(&jobs, smallvec![tensor(&[3, 2]), tensor(&[3])]).unwrap();
        assert_eq!(parts[0][0].data, Bytes::from_static(&[0, 1]));
        assert_eq!(parts[1][0].data, Bytes::from_static(&[2, 3, 4, 5]));
        assert_eq!(parts[1][0].shape.dims(), [2, 2]);
        assert_eq!(parts[1][1].data, Bytes::from_static(&[1, 2]));
    }

    #[test]
    fn rows_that_do_not_add_up_are_given_to_nobody() {
        let jobs = [job(1), job(2)];
        assert!(split(&jobs, smallvec![tensor(&[2, 2])]).is_none());
        assert!(split(&jobs, smallvec![tensor(&[4])]).is_none());
        assert!(split(&jobs, smallvec![tensor(&[])]).is_none());
    }
}
