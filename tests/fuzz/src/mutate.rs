//! A small mutator for where libFuzzer is not: the same seed gives the same bytes.

/// Numbers that look random (xorshift64*).
#[derive(Debug, Clone)]
pub struct Dice(u64);

/// What decoders trip over: borders of integers.
const BORDERS: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff, 1 << 62, i64::MAX as u64, u64::MAX];

/// What texts trip over.
const WORDS: [&[u8]; 12] =
    [b"[", b"]", b"{", b"}", b"\"", b",", b"-1", b"1e999", b"\\ud800", b"null", b"9223372036854775808", b"\xff\xfe"];

impl Dice {
    /// Begins; any number will do.
    pub const fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `most`; 0 for 0.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16;
        if most == 0 { 0 } else { usize::try_from(number).unwrap_or(0) % most }
    }
}

/// Spoils some bytes in one to four ways; `other` lends pieces.
pub fn mutate(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice, most: usize) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(9) {
            0 => with(bytes, at, |byte, dice| byte ^ (1 << dice.below(8)), dice),
            1 => with(bytes, at, |_, dice| dice.below(256).to_le_bytes()[0], dice),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..(at + 1 + dice.below(8)).min(bytes.len()))),
            4 => overwrite(bytes, at, &BORDERS[dice.below(BORDERS.len())].to_le_bytes()[..1 << dice.below(4)]),
            5 => insert(bytes, at, WORDS[dice.below(WORDS.len())]),
            6 => {
                let from = dice.below(other.len());
                insert(bytes, at, &other[from..(from + dice.below(64)).min(other.len())]);
            }
            7 => {
                let piece = bytes[at..(at + dice.below(32)).min(bytes.len())].to_vec();
                insert(bytes, at, &piece);
            }
            _ => with(bytes, at, |byte, _| byte.wrapping_add(1), dice),
        }
    }
    bytes.truncate(most);
}

fn with(bytes: &mut [u8], at: usize, change: impl Fn(u8, &mut Dice) -> u8, dice: &mut Dice) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = change(*byte, dice);
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (byte, new) in bytes.iter_mut().skip(at).zip(with) {
        *byte = *new;
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let tail = bytes.split_off(at);
    bytes.extend_from_slice(piece);
    bytes.extend(tail);
}
