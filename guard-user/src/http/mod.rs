//! One bounded HTTP request at a time; refuses framing that two servers could read differently.

pub mod framing;
pub mod strict_io;
