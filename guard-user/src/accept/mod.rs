//! Takes steered connections from the kernel and says who connected to which server.

mod acceptor;

pub use acceptor::{Accepted, Acceptor, Origin, Slot};
