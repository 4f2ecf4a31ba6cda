//! What an answer holds that is nobody's business: addresses, numbers of cards and accounts, secrets.
//!
//! Pure: texts in, hits out. Knows nothing of rules and of who asks.

mod kind;

pub use kind::{Kind, Kinds};
