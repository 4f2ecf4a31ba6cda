use proptest::prelude::*;

use super::*;
use crate::audit::note::SigningKey;

/// The record of a hand-over, as the writer makes it.
fn hand_over(from: &SigningKey, to: &VerifierKey, (epoch, seq): (u64, u64)) -> String {
    let note = from.hand_over(seq, [7; 32], to);
    let (prev, note) = ("0".repeat(64), serde_json::to_string(&note).unwrap().replace('\u{2014}', "\\u2014"));
    format!(
        r#"{{"seq":{seq},"prev":"{prev}","time":"2026-11-22T00:00:00.000000Z","kind":"key","epoch":{epoch},"note":{note}}}"#
    )
}

/// Four keys, and the file of their hand-overs at 10, 20 and 30.
fn four() -> (Vec<SigningKey>, String) {
    let keys: Vec<_> = (0..4).map(|_| SigningKey::generate("host/mcp-guard/1").unwrap()).collect();
    let lines = keys.windows(2).zip(1..).map(|(pair, epoch)| {
        let [from, to] = pair else { unreachable!() };
        hand_over(from, to.verifier(), (epoch, epoch * 10)) + "\n"
    });
    let text = lines.collect();
    (keys, text)
}

fn read(root: &VerifierKey, text: &str) -> io::Result<Keys> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(KEYS_FILE), text).unwrap();
    Keys::beside(dir.path(), root.clone())
}

#[test]
fn each_key_signs_while_it_is_its_turn_and_neither_before_nor_after() {
    let (signers, text) = four();
    let keys = read(signers[0].verifier(), &text).unwrap();
    assert_eq!((keys.epoch(), keys.text()), (3, text));
    for size in 0..40_u64 {
        // The record that hands over is the first that the new key covers.
        let turn = usize::try_from(size.saturating_sub(1) / 10).unwrap();
        for (number, signer) in signers.iter().enumerate() {
            let opened = keys.open_checkpoint(&signer.checkpoint(size, [1; 32]));
            if number == turn {
                assert_eq!(opened.unwrap().size, size);
            } else {
                assert_eq!(
                    opened,
                    Err(NoteError::NotItsTurn("host/mcp-guard/1".into())),
                    "{number} at {size}"
                );
            }
        }
    }
    let stranger = SigningKey::generate("host/mcp-guard/1").unwrap();
    assert!(matches!(keys.open_checkpoint(&stranger.checkpoint(5, [1; 32])), Err(NoteError::NotSigned(_))));
    // What hands over is no checkpoint to be found elsewhere.
    let note = signers[0].hand_over(10, [7; 32], signers[1].verifier());
    assert_eq!(keys.open_checkpoint(&note), Err(NoteError::NotACheckpoint));
}

#[test]
fn no_key_can_be_left_out_repeated_swapped_or_made_by_a_later_one() {
    let (signers, text) = four();
    let root = signers[0].verifier();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let wrong = [
        ("the first left out", [lines[1], lines[2]].concat()),
        ("one left out", [lines[0], lines[2]].concat()),
        ("repeated", [lines[0], lines[0], lines[1]].concat()),
        ("swapped", [lines[1], lines[0]].concat()),
        ("the end cut", text.trim_end().to_owned()),
        ("another number", text.replacen(r#""epoch":2"#, r#""epoch":5"#, 1)),
        ("another place", text.replacen(r#""seq":20"#, r#""seq":21"#, 1)),
        // A thief of the last key makes the one before it anew.
        (
            "by a later key",
            lines[0].to_owned() + &hand_over(&signers[3], signers[2].verifier(), (2, 20)) + "\n",
        ),
        ("by a stranger", {
            let stranger = SigningKey::generate("host/mcp-guard/1").unwrap();
            hand_over(&stranger, stranger.verifier(), (1, 10)) + "\n"
        }),
        ("to another trail's", {
            let other = SigningKey::generate("host/mcp-guard/2").unwrap();
            hand_over(&signers[0], other.verifier(), (1, 10)) + "\n"
        }),
        (
            "back in time",
            lines[0].to_owned() + &hand_over(&signers[1], signers[2].verifier(), (2, 10)) + "\n",
        ),
    ];
    for (what, text) in wrong {
        assert_eq!(
            read(root, &text).map_err(|error| error.kind()),
            Err(io::ErrorKind::InvalidData),
            "{what}"
        );
    }
    // Cut at a line's end, it is an older state, which what the trail says shows.
    assert_eq!(read(root, lines[0]).unwrap().epoch(), 1);
    assert!(read(signers[1].verifier(), &text).is_err(), "the first key is the one that was copied");
}

#[test]
fn what_a_file_has_must_be_met() {
    let (signers, text) = four();
    let lines: Vec<_> = text.lines().collect();
    let all = read(signers[0].verifier(), &text).unwrap();
    let (mut keys, mut hand_overs) = all.clone().split(11);
    assert_eq!((keys.epoch(), hand_overs.missed()), (1, Some(20)));
    assert!(!hand_overs.meets(lines[2]));
    (keys, hand_overs) = all.split(0);
    for line in &lines {
        assert!(hand_overs.meets(line));
        keys.take(line).unwrap();
    }
    assert_eq!((keys.text(), hand_overs.missed()), (text.clone(), None));
    assert!(hand_overs.meets("a later one, which the file does not have yet"));
}

proptest! {
    #[test]
    fn no_changed_byte_of_a_note_passes(at in 0..10_000_usize, bit in 0..8_u32) {
        let (signers, text) = four();
        let mut bytes = text.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        // What stands around the notes is kept by the chain of records.
        let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
        let note = begin + text[begin..].find(r#""note":""#).unwrap();
        if let Ok(changed) = String::from_utf8(bytes) && at > note + 8 {
            prop_assert!(read(signers[0].verifier(), &changed).is_err());
        }
    }
}
