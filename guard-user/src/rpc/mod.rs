//! Strict reading of JSON-RPC and MCP: what this accepts, every parser reads alike.

pub mod json;

pub use json::Json;

/// What a request is about, as the policy sees it. Names are compared byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    Tool(&'a str),
    Resource(&'a str),
    Prompt(&'a str),
    /// The method alone says what is asked (`ping`, `tools/list`, `initialize`, ...).
    Method,
}
