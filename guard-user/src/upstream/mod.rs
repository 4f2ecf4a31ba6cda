//! The one way to a protected server; takes a `Permit`.
