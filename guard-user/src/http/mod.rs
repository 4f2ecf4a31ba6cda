//! One bounded HTTP request at a time; refuses framing that two servers could read differently.

mod activity;
mod body;
mod exchange;
pub mod framing;
mod memory;
mod pieces;
mod server;
pub mod strict_io;

pub use body::Body;
pub use exchange::{Unreadable, read};
pub use framing::FramingError;
pub use memory::{Held, Memory};
pub use pieces::Pieces;
pub use server::{Handler, serve};
