//! Who may come in: by its head before the body is read ([`head`]), by its body once it is parsed.

pub mod head;
