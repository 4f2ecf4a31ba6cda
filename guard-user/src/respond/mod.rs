//! The one place where bytes for the client are made: from a server's reply, or from a refusal.

mod challenge;
mod charset;
mod inspected;
mod link;
mod refuse;
mod relay;
mod stream;
mod suspended;
mod view;
mod withdrawn;

pub use inspected::About;
pub use link::{Expected, Link, Links};
pub use refuse::{Asked, Site, What, document, http_failure, refuse, refuse_on};
pub use relay::{accept, pass_on, relay};
pub use suspended::Suspended;
pub use view::View;

use crate::config::Limits;

/// Where calls wait whose answers come on another exchange than their own.
pub struct Elsewhere {
    /// Streams of HTTP+SSE, on which posted messages are answered.
    pub links: Links,
    pub suspended: Suspended,
}

impl Elsewhere {
    pub fn new(limits: &Limits) -> Self {
        Self { links: Links::default(), suspended: Suspended::new(limits) }
    }
}
