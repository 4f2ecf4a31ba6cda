//! The guard's readers of outside bytes, compiled from its own files.
//!
//! Not as a dependency: the whole guard with its TLS and kernel parts takes minutes to build, and these modules are all
//! that a fuzzer feeds.
#![allow(dead_code, unreachable_pub, reason = "the rest of the guard uses what is not used here")]

#[path = "../../../guard-user/src/http"]
pub mod http {
    pub mod framing;
}
#[path = "../../../guard-user/src/rpc/mod.rs"]
pub mod rpc;

/// The bytes in pieces whose lengths the first byte of the input makes.
pub fn pieces(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = u32::from(seed).wrapping_mul(2_654_435_761) | 1;
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let most = if state & 0x100 == 0 { 4 } else { 64 };
        let length = 1 + usize::try_from(state >> 16).unwrap_or(0) % most;
        let (piece, next) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = next;
    }
    pieces
}
