//! Who rides together: admitted requests ([`job`]) wait ([`queue`]), leave in batches ([`plan`]), and get their own rows
//! of the answer back ([`split`]). How fast they leave ([`tempo`]) decides who need not begin to wait.

pub mod job;
pub mod plan;
pub mod queue;
pub mod split;
pub mod tempo;
