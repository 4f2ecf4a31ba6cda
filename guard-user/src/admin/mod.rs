//! The operator's API on a Unix socket.
