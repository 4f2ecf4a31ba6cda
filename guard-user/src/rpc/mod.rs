//! Strict reading of JSON-RPC and MCP: what this accepts, every parser reads alike.
//!
//! A request goes through [`head::check`] (any HTTP method) and [`decode`] (POST). A server's answer is looked at
//! by [`reply`], its event streams are cut by [`sse`], and its lists are cut down by [`list`].

mod agree;
mod answer;
mod bare;
pub mod batch;
mod fault;
mod fold;
pub mod form;
pub mod head;
mod id;
pub mod json;
pub mod list;
mod member;
mod message;
mod mirror;
pub mod reply;
pub mod sse;
mod trace;
mod words;

pub use agree::HeaderAgreement;
pub use answer::answer;
pub use bare::{BARE_BYTES_MAX, BARE_ID_BYTES_MAX, BARE_METHODS};
pub use fault::{Fault, FrameError};
pub use fold::is_lookalike;
pub use id::{ID_BYTES_MAX, ID_INTEGER_MAX, Id, IdError};
pub use json::Json;
pub use message::{Era, Kind, METHOD_BYTES_MAX, Message, TARGET_BYTES_MAX, decode};
pub use mirror::{MIRROR_PREFIX, Mirror, has_mirrors};
pub use trace::Trace;
pub use words::Words;

/// What a request is about, as the policy sees it. Names are compared byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target<'a> {
    Tool(&'a str),
    Resource(&'a str),
    Prompt(&'a str),
    /// A task by its id: the policy is asked about the call that made it.
    Task(&'a str),
    /// A method by which a server asks its client something (`sampling/createMessage`, ...).
    ServerRequest(&'a str),
    /// The method alone says what is asked (`ping`, `tools/list`, `initialize`, ...).
    Method,
    /// The method needs a tool, a resource or a prompt, and the request names none that can be read. The server
    /// would answer with an error; no rule about a named thing may ever allow it.
    Unnamed,
}

impl Target<'_> {
    /// Whether it is a tool, a resource or a prompt: what rules must name for an agent to have it.
    pub fn is_thing(self) -> bool {
        matches!(self, Self::Tool(_) | Self::Resource(_) | Self::Prompt(_))
    }
}
