//! What flows: element types, shapes, and the signature that a model declares. Every length in bytes comes out of
//! checked arithmetic here, so that nobody multiplies dimensions on their own.

mod dtype;

use std::fmt;
use std::str::FromStr;

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode, impl_borrow_decode};
use thiserror::Error;

pub use dtype::DType;

/// Most dimensions that a tensor may have.
pub const MAX_RANK: usize = 16;
/// Dimensions that lie in a shape itself. Nearly all tensors have no more: rows, channels, height and width.
const FEW: usize = 4;
/// Most inputs, and most outputs, that a model may declare.
pub const MAX_TENSORS: usize = 64;
/// Longest name of a tensor, in bytes.
pub const MAX_NAME: usize = 128;

/// The dimensions of a tensor that exists.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Shape(Dims);

/// Where they lie: the usual few in place, since a shape is copied with its tensor at every step of a request.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Dims {
    /// The rest of the list is zeros, so that two are equal exactly if their shapes are.
    Few { list: [u64; FEW], rank: u8 },
    /// More than [`FEW`].
    Many(Box<[u64]>),
}

/// What a tensor must look like: `None` in `dims` is a dimension that the request chooses (written -1).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TensorSpec {
    /// Its name, as clients say it.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub dims: Vec<Option<u64>>,
}

/// A model's inputs in the order of its `forward`, and its outputs in the order of what that returns.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ModelSignature {
    /// Arguments of `forward`.
    pub inputs: Vec<TensorSpec>,
    /// What it returns.
    pub outputs: Vec<TensorSpec>,
}

/// Why a tensor or a declaration of one is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TensorError {
    /// Not an element type that this server knows.
    #[error("unknown dtype {0:?}; known are BOOL, UINT8, INT8, INT16, INT32, INT64, FP16, BF16, FP32, FP64")]
    DType(String),
    /// The number of bytes does not fit, or is beyond every memory.
    #[error("a tensor of shape {0} is larger than any memory")]
    Overflow(Shape),
    /// Too many dimensions.
    #[error("{0} dimensions; at most {MAX_RANK} are allowed")]
    Rank(usize),
    /// The shape is not the declared one.
    #[error("shape {found} does not fit the declared {declared}")]
    Shape {
        /// What came.
        found: Shape,
        /// What the model declares.
        declared: String,
    },
    /// A declaration that cannot be read.
    #[error("{0:?} is not a tensor declaration; write NAME:DTYPE[DIM,DIM,…], for example x:FP32[-1,16]")]
    Declaration(String),
    /// An unusable name.
    #[error("tensor name {0:?} must have 1 to {MAX_NAME} printable ASCII characters without space, quote or comma")]
    Name(String),
    /// Two tensors of one name.
    #[error("two tensors are called {0:?}")]
    Twice(String),
    /// Too many, or none.
    #[error("{0} tensors; 1 to {MAX_TENSORS} are allowed")]
    Count(usize),
}

// === impl Shape ===

impl Shape {
    /// A shape of these dimensions, outermost first.
    pub fn new(dims: Vec<u64>) -> Result<Self, TensorError> {
        Self::from_dims(dims)
    }

    /// The same, of dimensions that lie in no list of their own.
    pub fn from_dims(dims: impl IntoIterator<Item = u64>) -> Result<Self, TensorError> {
        let (mut list, mut rank) = ([0; MAX_RANK], 0);
        for dim in dims {
            if let Some(place) = list.get_mut(rank) {
                *place = dim;
            }
            rank += 1;
        }
        list.get(..rank).map(Self::of).ok_or(TensorError::Rank(rank))
    }

    /// Of dimensions that are not too many.
    fn of(dims: &[u64]) -> Self {
        let mut list = [0; FEW];
        Self(match list.get_mut(..dims.len()) {
            Some(few) => {
                few.copy_from_slice(dims);
                Dims::Few { list, rank: dims.len() as u8 }
            }
            None => Dims::Many(dims.into()),
        })
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[u64] {
        match &self.0 {
            Dims::Few { list, rank } => &list[..usize::from(*rank)],
            Dims::Many(list) => list,
        }
    }

    /// Number of elements; 1 for a scalar.
    pub fn elements(&self) -> Result<usize, TensorError> {
        // A zero anywhere makes the tensor empty, but must not hide an absurd dimension beside it.
        let wide = self.dims().iter().try_fold(1u64, |n, d| n.checked_mul((*d).max(1)));
        let wide = wide.filter(|n| *n <= i64::MAX as u64).ok_or_else(|| TensorError::Overflow(self.clone()))?;
        if self.dims().contains(&0) {
            return Ok(0);
        }
        usize::try_from(wide).map_err(|_| TensorError::Overflow(self.clone()))
    }

    /// Bytes of a dense tensor of this shape.
    pub fn bytes(&self, dtype: DType) -> Result<usize, TensorError> {
        let bytes = self.elements()?.checked_mul(dtype.size());
        bytes.filter(|n| *n <= isize::MAX as usize).ok_or_else(|| TensorError::Overflow(self.clone()))
    }

    /// The same shape with another outermost dimension.
    pub fn with_rows(&self, rows: u64) -> Self {
        let mut shape = self.clone();
        let dims = match &mut shape.0 {
            Dims::Few { list, rank } => &mut list[..usize::from(*rank)],
            Dims::Many(list) => list,
        };
        if let Some(first) = dims.first_mut() {
            *first = rows;
        }
        shape
    }
}

impl Default for Shape {
    /// That of a scalar.
    fn default() -> Self {
        Self::of(&[])
    }
}

// As a list; by hand, so that a decoded shape has as few dimensions as any other.
impl Encode for Shape {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.dims().encode(encoder)
    }
}

impl<C> Decode<C> for Shape {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let rank = usize::try_from(u64::decode(decoder)?).unwrap_or(usize::MAX);
        let mut list = [0; MAX_RANK];
        let too_many = || DecodeError::OtherString(TensorError::Rank(rank).to_string());
        let dims = list.get_mut(..rank).ok_or_else(too_many)?;
        for dim in &mut *dims {
            *dim = u64::decode(decoder)?;
        }
        Ok(Self::of(dims))
    }
}
impl_borrow_decode!(Shape);

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shape").field(&self.dims()).finish()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.dims().iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

// === impl TensorSpec ===

impl TensorSpec {
    /// A declaration, checked.
    pub fn new(name: String, dtype: DType, dims: Vec<Option<u64>>) -> Result<Self, TensorError> {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b',' | b':' | b'[' | b']');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
            return Err(TensorError::Name(name.chars().take(MAX_NAME).collect()));
        }
        // The smallest tensor of this declaration must exist at all.
        Shape::from_dims(dims.iter().map(|d| d.unwrap_or(1)))?.bytes(dtype)?;
        Ok(Self { name, dtype, dims })
    }

    /// Whether a tensor of this shape may pass.
    pub fn check(&self, shape: &Shape) -> Result<(), TensorError> {
        let fits = shape.dims().len() == self.dims.len()
            && self.dims.iter().zip(shape.dims()).all(|(want, have)| want.is_none_or(|w| w == *have));
        if fits { Ok(()) } else { Err(TensorError::Shape { found: shape.clone(), declared: self.dims_text() }) }
    }

    /// Whether the outermost dimension is the request's choice, so that rows of several requests can ride together.
    pub fn is_batched(&self) -> bool {
        self.dims.first() == Some(&None)
    }

    /// The smallest shape that passes: every free dimension is 1.
    pub fn smallest(&self) -> Shape {
        let mut list = [0; MAX_RANK];
        // A declaration that was checked has no more than that.
        let ranks = list.iter_mut().zip(&self.dims).map(|(place, dim)| *place = dim.unwrap_or(1)).count();
        Shape::of(&list[..ranks])
    }

    /// The dimensions as clients see them: -1 is free.
    pub fn dims_i64(&self) -> Vec<i64> {
        self.dims.iter().map(|d| d.map_or(-1, |d| i64::try_from(d).unwrap_or(i64::MAX))).collect()
    }

    fn dims_text(&self) -> String {
        let dims: Vec<String> = self.dims_i64().iter().map(i64::to_string).collect();
        format!("[{}]", dims.join(","))
    }
}

impl FromStr for TensorSpec {
    type Err = TensorError;
    /// `NAME:DTYPE[DIM,DIM,…]`; `NAME:DTYPE[]` is a scalar.
    fn from_str(text: &str) -> Result<Self, TensorError> {
        let bad = || TensorError::Declaration(text.chars().take(200).collect());
        let (name, rest) = text.split_once(':').ok_or_else(bad)?;
        let (dtype, dims) = rest.split_once('[').ok_or_else(bad)?;
        let dims = dims.strip_suffix(']').ok_or_else(bad)?;
        let dim = |d: &str| match d.trim() {
            "-1" => Ok(None),
            d => d.parse::<u64>().map(Some).map_err(|_| bad()),
        };
        let dims =
            if dims.trim().is_empty() { Vec::new() } else { dims.split(',').map(dim).collect::<Result<_, _>>()? };
        Self::new(name.trim().to_owned(), dtype.trim().parse()?, dims)
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.name, self.dtype, self.dims_text())
    }
}

// === impl ModelSignature ===

impl ModelSignature {
    /// A signature, checked: 1 to [`MAX_TENSORS`] on each side, no name twice on a side.
    pub fn new(inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> Result<Self, TensorError> {
        for side in [&inputs, &outputs] {
            if side.is_empty() || side.len() > MAX_TENSORS {
                return Err(TensorError::Count(side.len()));
            }
            for (i, spec) in side.iter().enumerate() {
                if side[..i].iter().any(|s| s.name == spec.name) {
                    return Err(TensorError::Twice(spec.name.clone()));
                }
            }
        }
        Ok(Self { inputs, outputs })
    }

    /// Whether rows of several requests may share one run: every input and every output is batched.
    pub fn is_batched(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).all(TensorSpec::is_batched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_never_wrap() {
        let huge = [vec![1 << 62, 8], vec![u64::MAX], vec![0, u64::MAX, u64::MAX], vec![1 << 32, 1 << 32]];
        for dims in huge {
            assert!(Shape::new(dims.clone()).unwrap().bytes(DType::Fp64).is_err(), "{dims:?}");
        }
        assert_eq!(Shape::new(vec![]).unwrap().bytes(DType::Fp32), Ok(4));
        assert_eq!(Shape::new(vec![0, 7]).unwrap().bytes(DType::Fp32), Ok(0));
        assert_eq!(Shape::new(vec![1; MAX_RANK + 1]), Err(TensorError::Rank(MAX_RANK + 1)));
    }

    #[test]
    fn a_decoded_shape_has_few_dimensions_too() {
        use crate::work::{FromWorker, Placed};
        // One that cannot be made here, so it is kept in the form of one that can.
        let done = |rank: usize| {
            let shape = Shape(Dims::Many(vec![1; rank].into()));
            let placed = Placed { dtype: DType::Fp32, shape, offset: 0, bytes: 4 };
            let done = FromWorker::Done { batch: crate::id::BatchId(1), outputs: vec![placed], run_us: 0 };
            crate::frame::decode::<FromWorker>(&crate::frame::encode(&done).unwrap())
        };
        assert!(done(MAX_RANK).is_ok());
        assert!(done(MAX_RANK + 1).is_err());
    }

    #[test]
    fn a_shape_is_the_same_however_many_dimensions_it_has() {
        for rank in 0..=MAX_RANK {
            let dims: Vec<u64> = (1..=rank as u64).collect();
            let shape = Shape::new(dims.clone()).unwrap();
            assert_eq!((shape.dims(), &shape), (&dims[..], &Shape::from_dims(dims.iter().copied()).unwrap()));
            let changed = shape.with_rows(9);
            assert_eq!(changed.dims().get(1..), dims.get(1..));
            assert_eq!(changed.dims().first(), dims.first().map(|_| &9));
            assert_eq!(changed == shape, rank == 0 || dims[0] == 9);
        }
    }

    #[test]
    fn declarations_read_as_they_are_written() {
        for text in ["x:FP32[-1,16]", "y:INT64[]", "INPUT__0:BOOL[3]"] {
            assert_eq!(text.parse::<TensorSpec>().unwrap().to_string(), text);
        }
        assert_eq!("x:f32[ -1 , 16 ]".parse::<TensorSpec>().unwrap().to_string(), "x:FP32[-1,16]");
        for bad in ["x", "x:f32", "x:f32[1", "x:f32[-2]", "x:f32[a]", ":f32[1]", "x y:f32[1]", "x:f99[1]", "x:f32[1,]"]
        {
            assert!(bad.parse::<TensorSpec>().is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn a_shape_must_fit_its_declaration() {
        let spec: TensorSpec = "x:f32[-1,16]".parse().unwrap();
        let shape = |dims: &[u64]| Shape::new(dims.to_vec()).unwrap();
        assert!(spec.check(&shape(&[3, 16])).is_ok());
        for bad in [&[3u64, 15][..], &[16], &[1, 1, 16], &[]] {
            assert!(spec.check(&shape(bad)).is_err(), "{bad:?} passed");
        }
    }
}
