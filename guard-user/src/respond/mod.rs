//! The one place where bytes for the client are made: from a server's reply, or from a refusal.

mod link;
mod refuse;
mod relay;
mod stream;
mod view;

pub use link::{Expected, Link, Links};
pub use refuse::{Asked, Site, What, http_failure, refuse, refuse_on};
pub use relay::{accept, relay};
pub use view::View;
