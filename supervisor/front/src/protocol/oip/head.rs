//! The JSON of an Open Inference Protocol request, field for field, as serde reads it. Every list has a length beyond
//! which reading stops, so a body cannot grow into many times its own size. Unknown keys are passed over, as the
//! protocol asks; a key that comes twice is an error.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use casemate_ipc::tensor::{MAX_RANK, MAX_TENSORS};
use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use smallvec::SmallVec;

/// A request.
#[derive(Debug, Deserialize)]
pub(super) struct RequestHead<'a> {
    #[serde(default, borrow)]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) parameters: Option<RequestParameters>,
    #[serde(borrow)]
    pub(super) inputs: Few<InputHead<'a>>,
    #[serde(default, borrow)]
    pub(super) outputs: Option<Few<OutputHead<'a>>>,
}

/// What may be said about a whole request.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RequestParameters {
    #[serde(default)]
    pub(super) binary_data_output: Option<bool>,
}

/// One input. `data` may stand before `datatype`, so it stays text until the whole object is read.
#[derive(Debug, Deserialize)]
pub(super) struct InputHead<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    pub(super) shape: Dims,
    #[serde(borrow)]
    pub(super) datatype: Cow<'a, str>,
    #[serde(default)]
    pub(super) parameters: Option<InputParameters>,
    #[serde(default, borrow)]
    pub(super) data: Option<&'a RawValue>,
}

/// What may be said about an input.
#[derive(Debug, Default, Deserialize)]
pub(super) struct InputParameters {
    #[serde(default)]
    pub(super) binary_data_size: Option<u64>,
    #[serde(default)]
    pub(super) shared_memory_region: Option<IgnoredAny>,
}

/// One wanted output.
#[derive(Debug, Deserialize)]
pub(super) struct OutputHead<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(default)]
    pub(super) parameters: Option<OutputParameters>,
}

/// What may be said about an output.
#[derive(Debug, Default, Deserialize)]
pub(super) struct OutputParameters {
    #[serde(default)]
    pub(super) binary_data: Option<bool>,
    #[serde(default)]
    pub(super) classification: Option<IgnoredAny>,
    #[serde(default)]
    pub(super) shared_memory_region: Option<IgnoredAny>,
}

/// An input's dimensions. They are few, and lie where they are read.
#[derive(Debug)]
pub(super) struct Dims {
    list: [i64; MAX_RANK],
    rank: usize,
}

/// A list that ends in an error beyond [`Listed::MOST`], and whose errors name the entry.
#[derive(Debug)]
pub(super) struct Few<T>(pub(super) Listing<T>);

/// Most requests have one input or two, which then lie where they are read.
pub(super) type Listing<T> = SmallVec<[T; 2]>;

/// What stands in a bounded list.
pub(super) trait Listed {
    const LIST: &'static str;
    const MOST: usize;
}

impl Listed for InputHead<'_> {
    const LIST: &'static str = "inputs";
    const MOST: usize = MAX_TENSORS;
}

impl Listed for OutputHead<'_> {
    const LIST: &'static str = "outputs";
    const MOST: usize = MAX_TENSORS;
}

impl Dims {
    pub(super) fn list(&self) -> &[i64] {
        &self.list[..self.rank]
    }
}

impl<'de> Deserialize<'de> for Dims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(DimsVisitor)
    }
}

struct DimsVisitor;

impl<'de> Visitor<'de> for DimsVisitor {
    type Value = Dims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'shape', an array of at most {MAX_RANK} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dims, A::Error> {
        let (mut list, mut rank) = ([0; MAX_RANK], 0);
        while let Some(dim) = seq.next_element().map_err(|e| A::Error::custom(format!("shape[{rank}]: {e}")))? {
            let place = list.get_mut(rank);
            *place.ok_or_else(|| A::Error::custom(format!("'shape' has more than {MAX_RANK} entries")))? = dim;
            rank += 1;
        }
        Ok(Dims { list, rank })
    }
}

impl<'de, T: Listed + Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FewVisitor(PhantomData))
    }
}

struct FewVisitor<T>(PhantomData<T>);

impl<'de, T: Listed + Deserialize<'de>> Visitor<'de> for FewVisitor<T> {
    type Value = Few<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}', an array of at most {} entries", T::LIST, T::MOST)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Listing::new();
        loop {
            let entry = seq.next_element::<T>();
            let Some(entry) = entry.map_err(|e| A::Error::custom(format!("{}[{}]: {e}", T::LIST, list.len())))? else {
                return Ok(Few(list));
            };
            if list.len() == T::MOST {
                return Err(A::Error::custom(format!("'{}' has more than {} entries", T::LIST, T::MOST)));
            }
            list.push(entry);
        }
    }
}
