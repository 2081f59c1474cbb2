//! Who may come in: by its head before the body is read ([`head`]), by its body once it is parsed ([`body`]).

pub mod body;
pub mod head;
pub mod permit;
