//! `guard.yaml`: what is protected, and how the guard itself runs. What agents may do is in the policy files.

mod file;
mod limits;

pub use file::{Audit, Config, Durability, Kernel, Plaintext, Server, Tls};
pub use limits::Limits;
