//! Takes steered connections from the kernel and says who connected to which server.

mod acceptor;
mod places;

pub use acceptor::{Accepted, Acceptor, Origin};
pub use places::Place;
