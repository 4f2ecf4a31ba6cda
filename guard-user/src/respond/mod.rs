//! The one place where bytes for the client are made: from a server's reply, or from a refusal.

mod refuse;
mod relay;
mod stream;
mod view;

pub use refuse::{Asked, Site, What, refuse};
pub use relay::relay;
pub use view::View;
