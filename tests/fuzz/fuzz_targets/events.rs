//! Event streams: whatever the cuts, the same pieces, and together they are what came.
#![no_main]

use bytes::Bytes;
use guard_fuzz::pieces;
use guard_fuzz::rpc::reply;
use guard_fuzz::rpc::sse::{Events, Piece, StreamFault};
use libfuzzer_sys::fuzz_target;

const EVENT_BYTES_MAX: usize = 4096;
/// What goes on may be longer than what came: a separator of lines becomes an escape of six bytes.
const PASSED_BYTES_MAX: usize = 3 * EVENT_BYTES_MAX;

fn read(cut: &[&[u8]], bytes_max: usize) -> (Vec<Piece>, Vec<u8>, Option<StreamFault>) {
    let mut events = Events::new(bytes_max);
    let mut all = Vec::new();
    for chunk in cut {
        events.push(Bytes::copy_from_slice(chunk));
        loop {
            match events.next_piece() {
                Ok(Some(piece)) => all.push(piece),
                Ok(None) => break,
                Err(fault) => return (all, Vec::new(), Some(fault)),
            }
        }
    }
    (all, events.rest().to_vec(), None)
}

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = input.split_first() else { return };
    let (all, rest, fault) = read(&[bytes], EVENT_BYTES_MAX);
    let (cut, cut_rest, cut_fault) = read(&pieces(bytes, *seed), EVENT_BYTES_MAX);
    // A fault in the same line may show as another: too long, or unclear.
    assert_eq!(fault.is_some(), cut_fault.is_some());
    if fault.is_none() {
        assert_eq!(all, cut);
        assert_eq!(rest, cut_rest);
        let together: Vec<u8> = all.iter().flat_map(|piece| piece.raw.to_vec()).chain(rest).collect();
        assert_eq!(together, bytes);
    }
    for piece in all {
        assert!(piece.raw.len() <= EVENT_BYTES_MAX && piece.raw.ends_with(b"\n"));
        if !piece.is_message() || reply::look(&piece.data).is_err() {
            continue;
        }
        // What goes on is one event with the same message.
        let passed = piece.passing(&piece.data);
        let (again, rest, fault) = read(&[&passed], PASSED_BYTES_MAX);
        assert!(fault.is_none() && rest.is_empty());
        let [again] = &again[..] else { panic!("one event became {}", again.len()) };
        assert_eq!((&again.id, &again.event), (&piece.id, &piece.event));
        let value = |data: &[u8]| serde_json::from_slice::<serde_json::Value>(data).ok();
        assert_eq!(value(&again.data), value(&piece.data));
    }
});
