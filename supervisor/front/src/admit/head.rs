//! What can be refused before a byte of the body is read.

/// A request whose head was admitted; holds its share of the room until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Visitor {
    _private: (),
}

impl Visitor {
    /// Most bytes that this request's body may have.
    pub fn body_limit(&self) -> u64 {
        todo!("the lead writes this")
    }
}
