//! Convolutions by their sizes alone: what of a model oneDNN makes machine code for, as bounded data.
//!
//! A worker that may make no code says which convolutions its model ran; `casemate model tune` keeps them beside the
//! manifest, and the next worker runs them on zeros before its last filter. So they are read before that filter, and come
//! from a model: numbers within bounds, and nothing else.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use thiserror::Error;

use crate::digest;

/// Most convolutions of one model.
pub const MAX_CONVOLUTIONS: usize = 256;
/// Most that a worker says in its life: each is said again when it is met with twice as many rows.
pub const MAX_SAID: usize = MAX_CONVOLUTIONS * 17;
/// Largest text of them, in bytes.
pub const MAX_TEXT: u64 = 48 * 1024;
/// The name of that text in a model's folder.
pub const FILE: &str = "model.shapes";

/// One convolution of 32-bit floats, for up to so many rows at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Convolution {
    /// Channels of the input.
    pub channels: u32,
    /// Channels of the output.
    pub outputs: u32,
    /// Groups; they divide both.
    pub groups: u32,
    /// Whether it adds a bias.
    pub bias: bool,
    /// Whether channels are the innermost dimension in memory.
    pub last: bool,
    /// Two or three.
    pub axes: Vec<Axis>,
    /// Most rows that came at once, or more: workers say a power of two.
    pub rows: u32,
}

/// One spatial dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Axis {
    /// Of the input.
    pub size: u32,
    /// Of the kernel.
    pub kernel: u32,
    /// Steps.
    pub stride: u32,
    /// Zeros on each side.
    pub padding: u32,
    /// Distance of the kernel's points.
    pub dilation: u32,
}

/// All of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Convolutions {
    /// SHA-256 of the model's bytes.
    pub sha256: [u8; 32],
    /// In the order in which they were met.
    pub list: Vec<Convolution>,
}

/// What a warm-up runs of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each convolution with its numbers of rows.
    pub pieces: Vec<Convolution>,
    /// Those that would take too much.
    pub left_out: Vec<Convolution>,
}

/// Why a text or a value is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConvolutionError {
    /// Longer than any that this house writes.
    #[error("it is longer than {MAX_TEXT} bytes, or no text")]
    Length,
    /// The first line.
    #[error("its first line is not `sha256 DIGEST`")]
    Digest,
    /// More than [`MAX_CONVOLUTIONS`].
    #[error("it has more than {MAX_CONVOLUTIONS} lines")]
    Many,
    /// A line.
    #[error("line {0} is not `conv ROWS CHANNELS OUTPUTS GROUPS BIAS LAST SIZE,KERNEL,STRIDE,PADDING,DILATION …`")]
    Line(usize),
    /// A size.
    #[error("{0} is out of bounds")]
    Bounds(&'static str),
    /// What is wrong with the numbers in a line.
    #[error("line {0}, `{1}`: {2}")]
    At(usize, String, Box<Self>),
}

/// Largest number of any kind.
const MAX_NUMBER: u32 = 65_536;
/// Largest tensor of one row, in bytes; and largest weight.
const MAX_BYTES: u64 = 256 << 20;
/// Most that one of them takes at once, for all its rows, in bytes: input, weights, bias and output. One that takes more for a
/// single row already is left out of the plan, and the rest of its file is not.
const MAX_BATCH_BYTES: u64 = 512 << 20;
/// What oneDNN rounds channels up to where it lays them out in blocks, on CPUs with the widest registers.
const BLOCK: u32 = 16;
/// Most of them with their numbers of rows: oneDNN must keep the code of all, which is a few pieces for each.
const MAX_PIECES: usize = 2048;
/// Multiplications that the warm-up may take for one model: some seconds of one core.
const MAX_WORK: u64 = 1 << 37;
/// Bytes that the warm-up may fill for one model, one piece after the other: some seconds too. A convolution of few
/// multiplications can have large tensors.
const MAX_FILLED: u64 = 1 << 34;

impl Convolution {
    /// Whether every number is within its bounds, and they make a convolution together.
    pub fn check(&self) -> Result<(), ConvolutionError> {
        let within = |what, number: u32, least: u32| match (least..=MAX_NUMBER).contains(&number) {
            true => Ok(()),
            false => Err(ConvolutionError::Bounds(what)),
        };
        within("rows", self.rows, 1)?;
        within("channels", self.channels, 1)?;
        within("outputs", self.outputs, 1)?;
        within("groups", self.groups, 1)?;
        if !self.channels.is_multiple_of(self.groups) || !self.outputs.is_multiple_of(self.groups) {
            return Err(ConvolutionError::Bounds("groups"));
        }
        if !(2..=3).contains(&self.axes.len()) {
            return Err(ConvolutionError::Bounds("the number of axes"));
        }
        for axis in &self.axes {
            within("size", axis.size, 1)?;
            within("kernel", axis.kernel, 1)?;
            within("stride", axis.stride, 1)?;
            within("padding", axis.padding, 0)?;
            within("dilation", axis.dilation, 1)?;
            // More zeros than the kernel reaches make rows of nothing; libtorch takes them, and no model of use has them.
            let reach = u64::from(axis.dilation) * u64::from(axis.kernel);
            if u64::from(axis.padding) > reach || axis.output().is_none() {
                return Err(ConvolutionError::Bounds("padding or kernel"));
            }
        }
        let sizes = [self.input_bytes(), self.output_bytes(), self.weight_bytes()];
        if sizes.into_iter().any(|bytes| bytes.is_none_or(|bytes| bytes > MAX_BYTES)) {
            return Err(ConvolutionError::Bounds("a tensor"));
        }
        Ok(())
    }

    /// Whether it is the same one, for another number of rows.
    pub fn is_like(&self, other: &Self) -> bool {
        let Self { channels, outputs, groups, bias, last, axes, rows: _ } = self;
        (channels, outputs, groups, bias, last, axes)
            == (&other.channels, &other.outputs, &other.groups, &other.bias, &other.last, &other.axes)
    }

    /// Multiplications for one row.
    fn work(&self) -> u64 {
        let (channels, outputs, groups) = (u64::from(self.channels), u64::from(self.outputs), u64::from(self.groups));
        let points = self.axes.iter().map(|axis| u64::from(axis.output().unwrap_or(1)) * u64::from(axis.kernel));
        points.fold((channels / groups.max(1)).saturating_mul(outputs), u64::saturating_mul)
    }

    /// Bytes that a run of so many rows fills: all its tensors, as oneDNN may lay them out, with channels rounded up to whole
    /// blocks; of weights those of each group, unless each group is one channel and one output. oneDNN was seen to make whole
    /// blocks of groups of one channel and several outputs too, where channels are innermost.
    fn bytes(&self, rows: u32) -> u64 {
        let Self { channels, outputs, groups, .. } = self;
        let blocks = |channels: u32| u64::from(channels.next_multiple_of(BLOCK));
        let (inputs_each, outputs_each) = (channels / groups.max(&1), outputs / groups.max(&1));
        let pairs = match (inputs_each, outputs_each) {
            (1, 1) => blocks(*groups),
            _ => u64::from(*groups).saturating_mul(blocks(inputs_each)).saturating_mul(blocks(outputs_each)),
        };
        let input = bytes(blocks(*channels), self.axes.iter().map(|axis| Some(axis.size)));
        let output = bytes(blocks(*outputs), self.axes.iter().map(Axis::output));
        let weights = bytes(pairs, self.axes.iter().map(|axis| Some(axis.kernel)));
        let [input, output, weights] = [input, output, weights].map(|bytes| bytes.unwrap_or(u64::MAX));
        let each = input.saturating_add(output).saturating_mul(rows.into());
        let bias = if self.bias { blocks(*outputs) * 4 } else { 0 };
        each.saturating_add(weights).saturating_add(bias)
    }

    fn input_bytes(&self) -> Option<u64> {
        bytes(u64::from(self.channels), self.axes.iter().map(|axis| Some(axis.size)))
    }

    fn output_bytes(&self) -> Option<u64> {
        bytes(u64::from(self.outputs), self.axes.iter().map(Axis::output))
    }

    fn weight_bytes(&self) -> Option<u64> {
        let first = u64::from(self.outputs) * u64::from(self.channels / self.groups);
        bytes(first, self.axes.iter().map(|axis| Some(axis.kernel)))
    }
}

impl Axis {
    /// Of the output.
    fn output(&self) -> Option<u32> {
        let reach = u64::from(self.dilation) * u64::from(self.kernel - 1) + 1;
        let room = (u64::from(self.size) + 2 * u64::from(self.padding)).checked_sub(reach)?;
        u32::try_from(room / u64::from(self.stride) + 1).ok()
    }
}

fn bytes(first: u64, mut rest: impl Iterator<Item = Option<u32>>) -> Option<u64> {
    let floats = rest.try_fold(first, |all, one| all.checked_mul(u64::from(one?)));
    floats?.checked_mul(4)
}

impl Convolutions {
    /// Reads the text that `Display` writes.
    pub fn parse(text: &[u8]) -> Result<Self, ConvolutionError> {
        if text.len() as u64 > MAX_TEXT {
            return Err(ConvolutionError::Length);
        }
        let text = std::str::from_utf8(text).map_err(|_| ConvolutionError::Length)?;
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let sha256 = lines.next().and_then(|(_, line)| digest::read(line.strip_prefix("sha256 ")?));
        let sha256 = sha256.ok_or(ConvolutionError::Digest)?;
        let mut list = Vec::new();
        for (at, line) in lines {
            if list.len() == MAX_CONVOLUTIONS {
                return Err(ConvolutionError::Many);
            }
            let one: Convolution = line.parse().map_err(|error| match error {
                ConvolutionError::Line(_) => ConvolutionError::Line(at + 1),
                other => ConvolutionError::At(at + 1, line.to_owned(), Box::new(other)),
            })?;
            list.push(one);
        }
        Ok(Self { sha256, list })
    }

    /// What a warm-up runs, in order: each convolution for one row, then for two, for four and so on to the most that came at
    /// once, as long as all of it stays within a few seconds of work and of filled memory. Any other batch is run in pieces
    /// of these.
    pub fn plan(&self) -> Plan {
        let (mut work, mut bytes) = (MAX_WORK, MAX_FILLED);
        let mut plan = Plan::default();
        let most = self.list.iter().map(|one| one.rows).max().unwrap_or(0);
        let mut rows = 1;
        while rows <= most {
            for one in self.list.iter().filter(|one| rows <= one.rows) {
                let (costs, fills) = (one.work().saturating_mul(rows.into()), one.bytes(rows));
                let piece = Convolution { rows, ..one.clone() };
                if plan.pieces.len() == MAX_PIECES || costs > work || fills > bytes || fills > MAX_BATCH_BYTES {
                    plan.left_out.push(piece);
                    continue;
                }
                (work, bytes) = (work - costs, bytes - fills);
                plan.pieces.push(piece);
            }
            rows = rows.saturating_mul(2);
        }
        plan
    }
}

impl Plan {
    /// What is left out, for the log: the first piece with its bounds, and how many there are.
    pub fn shortfall(&self) -> Option<String> {
        let first = self.left_out.first()?;
        let (count, bytes, work) = (self.left_out.len(), first.bytes(first.rows), first.work());
        Some(format!(
            "{count} sizes of batches left out, the first of them {first}: {work} multiplications for a row, and {bytes} bytes; \
             a warm-up takes at most {MAX_PIECES} pieces, {MAX_WORK} multiplications and {MAX_FILLED} bytes in all, and \
             {MAX_BATCH_BYTES} bytes at once"
        ))
    }
}

impl fmt::Display for Convolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channels, outputs, groups, bias, last, axes, rows } = self;
        write!(f, "conv {rows} {channels} {outputs} {groups} {} {}", u8::from(*bias), u8::from(*last))?;
        for Axis { size, kernel, stride, padding, dilation } in axes {
            write!(f, " {size},{kernel},{stride},{padding},{dilation}")?;
        }
        Ok(())
    }
}

impl FromStr for Convolution {
    type Err = ConvolutionError;

    fn from_str(line: &str) -> Result<Self, ConvolutionError> {
        let one = read(line).ok_or(ConvolutionError::Line(1))?;
        one.check()?;
        Ok(one)
    }
}

impl fmt::Display for Convolutions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sha256 {}", digest::write(&self.sha256))?;
        self.list.iter().try_for_each(|one| writeln!(f, "{one}"))
    }
}

fn read(line: &str) -> Option<Convolution> {
    let mut words = line.strip_prefix("conv ")?.split(' ');
    let mut number = || words.next().and_then(plain);
    let (rows, channels, outputs, groups) = (number()?, number()?, number()?, number()?);
    let (bias, last) = (flag(number()?)?, flag(number()?)?);
    let axis = |word: &str| {
        let mut parts = word.split(',').map(plain);
        let mut part = || parts.next().flatten();
        let axis = Axis { size: part()?, kernel: part()?, stride: part()?, padding: part()?, dilation: part()? };
        parts.next().is_none().then_some(axis)
    };
    let axes = words.take(4).map(axis).collect::<Option<Vec<_>>>()?;
    Some(Convolution { channels, outputs, groups, bias, last, axes, rows })
}

/// Digits alone, few of them.
fn plain(word: &str) -> Option<u32> {
    let digits = (1..=5).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| word.parse().ok())?
}

fn flag(number: u32) -> Option<bool> {
    match number {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "conv 8 3 64 1 0 0 224,7,2,3,1 224,7,2,3,1";

    fn text() -> String {
        format!("sha256 {}\n{FIRST}\nconv 3 64 64 64 1 1 9,3,1,1,1 9,3,1,1,1 4,1,1,0,1\n", "ab".repeat(32))
    }

    #[test]
    fn a_text_survives_being_read_and_written() {
        let read = Convolutions::parse(text().as_bytes()).unwrap();
        assert_eq!((read.to_string(), read.list.len(), read.sha256), (text(), 2, [0xab; 32]));
        let commented = format!("# of a model\n\n{}", text());
        assert_eq!(Convolutions::parse(commented.as_bytes()), Ok(read));
    }

    #[test]
    fn every_spoilt_text_is_refused() {
        let spoil = [
            ("sha256 ab", "sha256 zb"),
            ("sha256 ", "md5 "),
            ("conv 8", "conv 0"),
            ("conv 8", "conv -8"),
            ("conv 8", "conv 99999999999"),
            ("conv 8 3", "conv 8 3.0"),
            ("conv 8 3 64 1 0 0", "conv 8 3 64 2 0 0"),
            ("conv 8 3 64 1 0 0", "conv 8 3 64 1 2 0"),
            ("conv 8 3 64 1 0 0 224,7,2,3,1", "conv 8 3 64 1 0 0"),
            ("224,7,2,3,1\n", "224,7,2,3\n"),
            ("224,7,2,3,1\n", "224,7,2,3,1,1\n"),
            ("224,7,2,3,1\n", "224,7,2,3,1 1,1,1,0,1 1,1,1,0,1\n"),
            ("224,7,2,3,1\n", "224,7,0,3,1\n"),
            ("224,7,2,3,1\n", "2,7,2,0,1\n"),
            ("224,7,2,3,1\n", "224,7,2,900,1\n"),
            ("224,7,2,3,1 224", "65536,7,2,3,1 65536"),
            ("conv 3", "exec 3"),
        ];
        for (from, to) in spoil {
            let spoilt = text().replacen(from, to, 1);
            assert_ne!(spoilt, text(), "{from:?} is not in the text");
            assert!(Convolutions::parse(spoilt.as_bytes()).is_err(), "{to:?} passed");
        }
        let long = format!("sha256 {}\n{}", "ab".repeat(32), format!("{FIRST}\n").repeat(MAX_CONVOLUTIONS + 1));
        assert_eq!(Convolutions::parse(long.as_bytes()), Err(ConvolutionError::Many));
        assert_eq!(Convolutions::parse(&vec![b'#'; 50_000]), Err(ConvolutionError::Length));
        assert_eq!(Convolutions::parse(b"\xff"), Err(ConvolutionError::Length));
    }

    #[test]
    fn a_plan_has_every_power_of_two() {
        let plan = |rows: u32| {
            let one = Convolution { rows, ..FIRST.parse().unwrap() };
            let all = Convolutions { sha256: [0; 32], list: vec![one] };
            let plan = all.plan();
            // Each of them is run or said to be left out.
            assert_eq!(plan.pieces.len() + plan.left_out.len(), rows.ilog2() as usize + 1);
            assert_eq!(plan.shortfall().is_some(), !plan.left_out.is_empty());
            plan.pieces.iter().map(|one| one.rows).collect::<Vec<_>>()
        };
        assert_eq!(plan(1), [1]);
        assert_eq!(plan(7), [1, 2, 4]);
        assert_eq!(plan(8), [1, 2, 4, 8]);
        let large = plan(4096);
        assert!(large.len() > 5 && large.len() < 13, "{large:?} is bounded by nothing");
    }

    /// Few multiplications, large tensors: one step over a wide input, again and again.
    #[test]
    fn a_plan_fills_no_more_memory_than_it_may() {
        let wide = |size: u32| -> Convolution {
            format!("conv 64 16 16 1 0 0 {size},1,{size},0,1 4096,1,4096,0,1").parse().unwrap()
        };
        let list: Vec<_> = (500..756).map(wide).collect();
        let plan = Convolutions { sha256: [0; 32], list }.plan();
        let filled: u64 = plan.pieces.iter().map(|piece| piece.bytes(piece.rows)).sum();
        let work: u64 = plan.pieces.iter().map(|piece| piece.work() * u64::from(piece.rows)).sum();
        assert!(work < MAX_WORK / 1000, "{work} multiplications: another bound holds it");
        assert!(filled <= MAX_FILLED && filled > MAX_FILLED / 2, "{filled} bytes");
        assert!(plan.pieces.iter().all(|piece| piece.bytes(piece.rows) <= MAX_BATCH_BYTES));
        let said = plan.shortfall().unwrap();
        let first = plan.left_out[0].to_string();
        assert!(said.contains(&first) && first.starts_with("conv "), "{said}");
    }

    /// Each of its tensors is small enough, and all of them together are not: it is left out, and said, and the others are not.
    #[test]
    fn what_takes_too_much_at_once_is_left_out_alone() {
        let large = "conv 1 16 16 1 0 0 2048,1,1,0,1 2048,1,1,0,1";
        let planned = |line: &str| Convolutions::parse(format!("{}{line}\n", text()).as_bytes()).unwrap().plan();
        let (with, without) = (planned(large), planned(""));
        assert!(!without.pieces.is_empty() && with.pieces == without.pieces && without.shortfall().is_none());
        assert_eq!(with.left_out, [large.parse().unwrap()]);
        let said = with.shortfall().unwrap();
        assert!(said.contains(large) && said.contains("536871936 bytes"), "{said}");
        // The control: half as many fit.
        let smaller = planned(&large.replace("2048,1,1,0,1 2048", "2048,1,1,0,1 1024"));
        assert_eq!((smaller.left_out.len(), smaller.pieces.len()), (0, without.pieces.len() + 1));
    }

    /// One channel takes the place of sixteen.
    #[test]
    fn channels_count_in_whole_blocks() {
        let bytes = |channels: &str, rows| -> u64 {
            let one: Convolution = format!("conv 1 {channels} 0 0 10,1,1,0,1 10,1,1,0,1").parse().unwrap();
            one.bytes(rows)
        };
        assert_eq!(bytes("1 1 1", 1), bytes("16 16 16", 1));
        assert_eq!(bytes("16 16 1", 1), 2 * 16 * 100 * 4 + 16 * 16 * 4);
        assert_eq!(bytes("3 17 1", 2), 2 * (16 + 32) * 100 * 4 + 16 * 32 * 4);
        // Four groups of four channels and four outputs each.
        assert_eq!(bytes("16 16 4", 1), 2 * 16 * 100 * 4 + 4 * 16 * 16 * 4);
        let wide = "conv 1 1 1 1 0 0 2048,1,1,0,1 2048,1,1,0,1";
        let plan = Convolutions { sha256: [0; 32], list: vec![wide.parse().unwrap()] }.plan();
        assert_eq!((plan.pieces.len(), plan.left_out.len()), (0, 1), "it takes as much as one of sixteen channels");
    }

    #[test]
    fn the_longest_list_fits_into_its_text() {
        let axes = vec![Axis { size: 65_535, kernel: 10_000, stride: 10_000, padding: 10_000, dilation: 10_000 }; 3];
        let (rows, channels, outputs, groups) = (10_000, 10_000, 10_000, 10_000);
        let one = Convolution { channels, outputs, groups, bias: true, last: true, axes, rows };
        let all = Convolutions { sha256: [0; 32], list: vec![one; MAX_CONVOLUTIONS] };
        assert!(all.to_string().len() as u64 <= MAX_TEXT, "{}", all.to_string().len());
    }
}
