//! What a witness signs: that a checkpoint was the largest of its log that it had seen at some time, and that each of them went on
//! from the one before (C2SP `tlog-cosignature`, v1).

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::super::super::note::{signatures, split};
use crate::config::WitnessKey;

/// By how much the witness's clock and this host's may differ, in seconds.
const CLOCK_SECONDS_MAX: u64 = 3600;

/// The line in `lines` by which `key` signed the checkpoint in `note` at about `now`, in seconds since 1970; an error in words. Lines of
/// other keys are passed over.
pub(super) fn find(lines: &str, note: &str, key: &WitnessKey, now: u64) -> Result<String, String> {
    let (text, _) = split(note).ok_or("this is no signed note")?;
    let is_near = |time: u64| {
        let apart = time.abs_diff(now);
        let which = if time > now { "ahead of" } else { "behind" };
        let said = || format!("it signed with a time that is {apart} s {which} this host's clock");
        if apart > CLOCK_SECONDS_MAX { Err(said()) } else { Ok(()) }
    };
    signed(lines, text, key, is_near).map(|(line, _)| line)
}

/// When `key` signed the checkpoint in `note`, which has that signature, in seconds since 1970; an error in words.
pub(in super::super) fn time(note: &str, key: &WitnessKey) -> Result<u64, String> {
    let (text, lines) = split(note).ok_or("this is no signed note")?;
    signed(lines, text, key, |_time| Ok(())).map(|(_, time)| time)
}

/// The line by which `key` signed `text`, and when, if `fits` takes that time.
fn signed(
    lines: &str,
    text: &str,
    key: &WitnessKey,
    fits: impl Fn(u64) -> Result<(), String>,
) -> Result<(String, u64), String> {
    let unfit = || "this is no list of signatures".to_owned();
    let mut wrong = format!("there is no signature of {key}");
    for signature in signatures(lines).map_err(|_error| unfit())? {
        let (name, bytes) = signature.map_err(|_error| unfit())?;
        let Some((id, rest)) = bytes.split_first_chunk::<4>() else { continue };
        if name != key.name() || *id != key.id() {
            continue;
        }
        match time_of(text, rest, key).and_then(|time| fits(time).map(|()| time)) {
            Ok(time) => return Ok((format!("\u{2014} {name} {}\n", BASE64.encode(&bytes)), time)),
            Err(why) => wrong = why,
        }
    }
    Err(wrong)
}

fn time_of(text: &str, timed: &[u8], key: &WitnessKey) -> Result<u64, String> {
    let wrong = || format!("the signature of {} does not match the checkpoint", key.name());
    let (time, signature) = timed.split_first_chunk::<8>().ok_or_else(wrong)?;
    let time = u64::from_be_bytes(*time);
    let message = format!("cosignature/v1\ntime {time}\n{text}");
    let verified = UnparsedPublicKey::new(&ED25519, key.public()).verify(message.as_bytes(), signature);
    verified.map(|()| time).map_err(|_unspecified| wrong())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    const NOTE: &str = "origin\n7\nroot\n\n\u{2014} origin AAAA\n";
    const NOW: u64 = 1_700_000_000;

    fn witness() -> (Ed25519KeyPair, WitnessKey) {
        let pair = Ed25519KeyPair::generate().unwrap();
        let public: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
        (pair, WitnessKey::new("w.example/1", public).unwrap())
    }

    fn line(pair: &Ed25519KeyPair, key: &WitnessKey, text: &str, time: u64) -> String {
        let signature = pair.sign(format!("cosignature/v1\ntime {time}\n{text}").as_bytes());
        let bytes = [&key.id()[..], &time.to_be_bytes(), signature.as_ref()].concat();
        format!("\u{2014} {} {}\n", key.name(), BASE64.encode(bytes))
    }

    #[test]
    fn the_line_of_the_witness_is_found_among_those_of_others() {
        let (pair, key) = witness();
        let (other_pair, other) = witness();
        let text = "origin\n7\nroot\n";
        let own = line(&pair, &key, text, NOW - 3);
        let lines = line(&other_pair, &other, text, NOW) + "\u{2014} x AA==\n" + &own;
        assert_eq!(find(&lines, NOTE, &key, NOW), Ok(own));
        assert_eq!(time(&(NOTE.to_owned() + &lines), &key), Ok(NOW - 3));
        assert!(time(NOTE, &key).unwrap_err().contains("no signature of"));
    }

    #[test]
    fn what_does_not_prove_that_the_witness_saw_this_checkpoint_now_is_not_taken() {
        let (pair, key) = witness();
        let (other_pair, other) = witness();
        let text = "origin\n7\nroot\n";
        let own = line(&pair, &key, text, NOW);
        let renamed = line(&other_pair, &key, text, NOW);
        for (lines, said) in [
            (line(&other_pair, &other, text, NOW), "no signature of w.example/1+"),
            (renamed, "does not match"),
            (line(&pair, &key, "origin\n8\nroot\n", NOW), "does not match"),
            (line(&pair, &key, text, NOW + 3601), "3601 s ahead of"),
            (line(&pair, &key, text, NOW - 3601), "3601 s behind"),
            (String::new(), "no list of signatures"),
            ("OK\n".into(), "no list of signatures"),
            (own.trim_end().to_owned(), "no list of signatures"),
            (own.replace("w.example/1", "w.example/2"), "no signature of"),
        ] {
            let refused = find(&lines, NOTE, &key, NOW).unwrap_err();
            assert!(refused.contains(said), "{said:?} in {refused:?}");
        }
        // Not a bit of it may be another one.
        let (head, bytes) = own.trim_end().rsplit_once(' ').unwrap();
        let bytes = BASE64.decode(bytes).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let line = format!("{head} {}\n", BASE64.encode(changed));
            assert!(find(&line, NOTE, &key, NOW).is_err(), "bit {bit}");
        }
    }
}
