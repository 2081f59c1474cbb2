//! CPUs by number, dealt out: among the workers of a model, and in a worker among its instances.

/// The greatest number that the kernel's usual set of CPUs has room for.
pub const MOST: u32 = 1023;

/// The piece of one among `parts`: an equal one where the number divides, otherwise all. `part` counts from 0; whoever is
/// beyond the last begins anew.
pub fn share(cores: &[u32], part: u32, parts: u32) -> &[u32] {
    let parts = usize::try_from(parts).unwrap_or(usize::MAX).max(1);
    let length = cores.len() / parts;
    if length == 0 || length * parts != cores.len() {
        return cores;
    }
    let part = usize::try_from(part).unwrap_or(0) % parts;
    cores.chunks_exact(length).nth(part).unwrap_or(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_piece_where_there_is_one() {
        let cores = [0, 1, 4, 5];
        assert_eq!([0, 1].map(|part| share(&cores, part, 2)), [[0, 1], [4, 5]]);
        assert_eq!(share(&cores, 3, 4), [5]);
        assert_eq!(share(&cores, 4, 4), [0], "one that takes over from another, while that one still ends");
        assert_eq!(share(&cores, 1, 3), cores);
        assert_eq!(share(&cores, 7, 8), cores, "fewer than there are parts");
        assert_eq!(share(&[], 0, 2), [0_u32; 0]);
        assert_eq!(share(&cores, 0, 0), cores);
    }
}
