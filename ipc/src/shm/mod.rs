//! Memory that two processes share: made sealed ([`seal`]), mapped ([`map`]), cut into slots ([`arena`]).

pub mod arena;
#[expect(unsafe_code, reason = "mapping memory that another process may be writing")]
pub mod map;
pub mod seal;
