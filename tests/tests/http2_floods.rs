//! HTTP/2 that costs its sender little: the guard ends it or waits, its memory stays bounded, and others are served.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use guard_tests::h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, End, Frames, HEADERS, PING, RST_STREAM, SETTINGS, encode,
    frame, head, integer, literal,
};
use guard_tests::scene::{Scene, apart, call, done};
use serde_json::{Value, json};

/// What the guard may hold more after a flood than before. A tenth of what each flood sends or asks for, or less.
const MORE_BYTES_MAX: u64 = 24 << 20;
/// A flood that is not ended goes on for so long at most: the guard reads no more then.
const FLOOD: Duration = Duration::from_secs(5);

/// Resident memory of the guard.
fn memory(scene: &Scene) -> u64 {
    let pid = scene.daemon.pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap();
    kib * 1024
}

fn assert_healthy(scene: &Scene) {
    let mut line = scene.https.line().unwrap();
    line.send(&scene.post(&call(7, "open")).bytes()).unwrap();
    let heard = scene.puppet.hear().unwrap();
    assert_eq!(heard.message(), call(7, "open"), "nothing else has reached the server");
    heard.answer(&done(7)).unwrap();
    assert_eq!(line.answer().unwrap().json(), done(7));
}

/// Sends what `next` makes until the guard ends the connection or takes no more, or the time is over. The first count
/// is of what was sent.
fn flood(frames: &mut Frames, most: usize, mut next: impl FnMut(usize) -> Vec<u8>) -> usize {
    let end = Instant::now() + FLOOD;
    (0..most).find(|turn| frames.send(&next(*turn)).is_err() || Instant::now() > end).unwrap_or(most)
}

/// Runs it with a guard, before and after which others are served, and which holds little more afterwards.
fn withstood(attack: impl FnOnce(&Scene) + Send) {
    apart(|| {
        let scene = Scene::new(&json!({"body_seconds": 5})).unwrap();
        assert_healthy(&scene);
        let before = memory(&scene);
        attack(&scene);
        let after = memory(&scene);
        println!("{} KiB before, {} KiB after", before / 1024, after / 1024);
        assert!(after < before + MORE_BYTES_MAX, "{before} bytes before, {after} after");
        assert_healthy(&scene);
    });
}

fn good(scene: &Scene) -> Vec<u8> {
    encode(&head(&scene.post(&call(1, "open"))))
}

#[test]
fn rapid_reset() {
    withstood(|scene| {
        let block = good(scene);
        let mut frames = Frames::open(&scene.https).unwrap();
        frames.wait_at_most(FLOOD).unwrap();
        flood(&mut frames, 5000, |turn| {
            let stream = u32::try_from(turn * 2 + 1).unwrap();
            [frame(HEADERS, END_HEADERS, stream, &block), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])]
                .concat()
        });
        let end = frames.fate(1);
        assert!(matches!(end, End::GoAway(11) | End::Closed), "{end:?}");
    });
}

#[test]
fn header_blocks_without_end() {
    for size in [0, 1, 16_000] {
        withstood(|scene| {
            let mut frames = Frames::open(&scene.https).unwrap();
            frames.wait_at_most(FLOOD).unwrap();
            frames.send(&frame(HEADERS, 0, 1, &good(scene))).unwrap();
            let piece = frame(CONTINUATION, 0, 1, &vec![0; size]);
            let sent = flood(&mut frames, 20_000, |_| piece.clone());
            let end = frames.fate(1);
            assert!(matches!(end, End::GoAway(_) | End::Closed), "{end:?} after {sent} frames of {size}");
        });
    }
}

#[test]
fn header_blocks_that_unpack_to_megabytes() {
    withstood(|scene| {
        let mut frames = Frames::open(&scene.https).unwrap();
        // Into the table, then by its number from there, again and again.
        let value = "v".repeat(3900);
        let entry =
            [&[0x40][..], &integer(1, 7, 0), b"x", &integer(value.len(), 7, 0), value.as_bytes()].concat();
        for stream in (1..200).step_by(2) {
            let bomb = [good(scene), entry.clone(), vec![0xbe; 12_000]].concat();
            if frames.send(&frame(HEADERS, END_HEADERS, stream, &bomb)).is_err() {
                break;
            }
        }
        let end = frames.fate(1);
        assert!(matches!(end, End::GoAway(_) | End::Reset(_) | End::Closed | End::Answered(0)), "{end:?}");
        assert!(scene.puppet.heard().is_none());
    });
}

#[test]
fn many_fields_and_long_ones() {
    withstood(|scene| {
        for fields in [literal(b"x", &[b'v'; 15_000]).repeat(3), literal(b"x", b"").repeat(5000)] {
            let mut frames = Frames::open(&scene.https).unwrap();
            let block = [good(scene), fields].concat();
            let mut pieces = block.chunks(16_000);
            let first = pieces.next().unwrap();
            frames.send(&frame(HEADERS, END_STREAM, 1, first)).unwrap();
            for piece in pieces {
                frames.send(&frame(CONTINUATION, 0, 1, piece)).unwrap();
            }
            // The connection may be over.
            let _ = frames.send(&frame(CONTINUATION, END_HEADERS, 1, &[]));
            let end = frames.fate(1);
            assert!(
                matches!(end, End::GoAway(_) | End::Reset(_) | End::Closed | End::Answered(0)),
                "{end:?}"
            );
            assert!(scene.puppet.heard().is_none());
        }
    });
}

#[test]
fn settings_and_pings_whose_answers_nobody_takes() {
    for bytes in [frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]), frame(PING, 0, 0, &[7; 8])] {
        withstood(|scene| {
            let mut frames = Frames::open(&scene.https).unwrap();
            frames.wait_at_most(FLOOD).unwrap();
            let many = bytes.repeat(1000);
            // Sixty megabytes and more, or as much as the guard takes.
            flood(&mut frames, 4000, |_| many.clone());
            assert_healthy(scene);
        });
    }
}

#[test]
fn data_frames_with_nothing_in_them() {
    withstood(|scene| {
        let mut frames = Frames::open(&scene.https).unwrap();
        frames.wait_at_most(FLOOD).unwrap();
        frames.send(&frame(HEADERS, END_HEADERS, 1, &good(scene))).unwrap();
        let many = frame(DATA, 0, 1, &[]).repeat(1000);
        flood(&mut frames, 4000, |_| many.clone());
        // The time for a body is over, or the flood was ended before.
        let end = frames.fate(1);
        assert!(matches!(end, End::Answered(_) | End::Reset(_) | End::GoAway(_) | End::Closed), "{end:?}");
        assert!(scene.puppet.heard().is_none());
    });
}

#[test]
fn a_reader_whose_window_is_nothing() {
    withstood(|scene| {
        let mut frames = Frames::open(&scene.https).unwrap();
        frames.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).unwrap();
        for stream in (1..40).step_by(2) {
            frames.ask(stream, &scene.post(&call(1, "open"))).unwrap();
            let mut heard = scene.puppet.hear().unwrap();
            heard.stream().unwrap();
            heard.at_most(FLOOD).unwrap();
            // Until nobody on the way takes more.
            thread::spawn(move || while heard.event(&long_event()).is_ok() {});
        }
        thread::sleep(FLOOD);
        assert_eq!(frames.end(1), End::Answered(200));
    });
}

/// A hundred kilobytes that answer nothing.
fn long_event() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x".repeat(100_000)}})
}

#[test]
fn more_streams_than_it_may_have() {
    withstood(|scene| {
        let mut frames = Frames::open(&scene.https).unwrap();
        let block = good(scene);
        for stream in (1..401).step_by(2) {
            frames.send(&frame(HEADERS, END_HEADERS, stream, &block)).unwrap();
        }
        let end = frames.fate(399);
        assert!(matches!(end, End::Reset(7) | End::GoAway(_) | End::Closed), "{end:?}");
    });
}
