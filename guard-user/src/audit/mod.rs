//! The hash-linked, signed record of every call, written before the call goes on.
