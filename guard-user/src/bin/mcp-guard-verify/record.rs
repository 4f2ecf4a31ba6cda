//! What one line says, as far as the trail's soundness goes. Each line is read on its own.

use std::borrow::Cow;

use serde::Deserialize;

use super::note::base64;
use super::spelling;
use super::tree::{Hash, leaf};

/// The format that this program reads.
const FORMAT: u64 = 1;

/// A line that has the form of a record.
pub(crate) struct Record {
    pub(crate) seq: u64,
    /// What it says the line before hashes to.
    pub(crate) prev: Hash,
    pub(crate) leaf: Hash,
    pub(crate) meaning: Meaning,
}

pub(crate) enum Meaning {
    Genesis {
        origin: String,
    },
    /// A call that was forwarded, by its id.
    Call(String),
    Refusal,
    /// How the call with this id, which stands in that record, ended.
    Outcome {
        id: String,
        call_seq: u64,
    },
    /// A signed note; as the first record of a file, with how the trail stands.
    Checkpoint {
        note: String,
        state: Option<State>,
    },
    /// Another key signs from here on; the note is the last one of the key before it.
    Key {
        epoch: u64,
        note: String,
    },
    /// The records before `to` are no more.
    Pruned {
        to: u64,
        time: String,
        cause: String,
    },
    /// `open_count`, if a restart made it.
    Gap {
        restart: Option<u64>,
        /// An operator went on without records that were lost.
        is_loss: bool,
    },
    Other,
}

/// How a trail stands, for who begins to read there.
pub(crate) struct State {
    /// The roots of the complete subtrees, the largest first.
    pub(crate) peaks: Vec<Hash>,
    /// Calls without an outcome.
    pub(crate) open: u64,
}

/// The fields that matter here, which have these types in records of any kind. `seq` and `prev` are read from the line's first bytes, which are fixed.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    format: Option<u64>,
    #[serde(borrow)]
    origin: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    decision: Option<Cow<'a, str>>,
    call_seq: Option<u64>,
    #[serde(borrow)]
    note: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    open_count: Option<u64>,
    #[serde(borrow)]
    peaks: Option<Vec<Cow<'a, str>>>,
    to: Option<u64>,
    epoch: Option<u64>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    cause: Option<Cow<'a, str>>,
}

/// Reads a line without its newline; says what keeps it from being a record.
pub(crate) fn read(line: &[u8]) -> Result<Record, String> {
    if !line.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Err("a byte that is not printable ASCII".into());
    }
    let (seq, prev) = head(line).ok_or("it does not begin as a record does")?;
    spelling::check(line)?;
    let fields: Fields<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    Ok(Record { seq, prev, leaf: leaf(line), meaning: meaning(fields)? })
}

/// `{"seq":N,"prev":"<64 hex digits>","time":"`, in its one spelling.
fn head(line: &[u8]) -> Option<(u64, Hash)> {
    let rest = line.strip_prefix(br#"{"seq":"#)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = rest.split_at(digits);
    let number = std::str::from_utf8(number).ok()?;
    let seq: u64 = number.parse().ok()?;
    if number.len() > 1 && number.starts_with('0') {
        return None;
    }
    let (prev, rest) = rest.strip_prefix(br#","prev":""#)?.split_first_chunk::<64>()?;
    rest.strip_prefix(br#"","time":""#)?;
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(prev.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some((seq, hash))
}

/// Lower case only.
fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

fn meaning(fields: Fields<'_>) -> Result<Meaning, String> {
    let id = fields.id.map(Cow::into_owned);
    Ok(match (&*fields.kind, id, fields.decision.as_deref()) {
        ("genesis", ..) if fields.format != Some(FORMAT) => {
            return Err("a format that this program does not know".into());
        }
        ("genesis", ..) => {
            Meaning::Genesis { origin: fields.origin.map(Cow::into_owned).unwrap_or_default() }
        }
        ("call", Some(id), Some("allow")) => Meaning::Call(id),
        ("call", Some(_), Some("deny" | "hold" | "tell")) => Meaning::Refusal,
        ("call", ..) => return Err("a call without an id or a verdict".into()),
        ("outcome", id, _) => match (id, fields.call_seq) {
            (Some(id), Some(call_seq)) => Meaning::Outcome { id, call_seq },
            _ => return Err("an outcome that names no call".into()),
        },
        ("checkpoint", ..) => Meaning::Checkpoint {
            note: fields.note.map(Cow::into_owned).unwrap_or_default(),
            state: fields.peaks.map(|peaks| state(&peaks, fields.format, fields.open_count)).transpose()?,
        },
        ("key", ..) => Meaning::Key {
            epoch: fields.epoch.ok_or("it does not say which key it is")?,
            note: fields.note.map(Cow::into_owned).unwrap_or_default(),
        },
        ("pruned", ..) => Meaning::Pruned {
            to: fields.to.ok_or("it does not say which records were pruned")?,
            time: fields.time.map(Cow::into_owned).unwrap_or_default(),
            cause: fields.cause.map(Cow::into_owned).unwrap_or_default(),
        },
        ("gap", ..) => match (fields.reason.as_deref(), fields.open_count) {
            (Some("restart"), Some(open)) => Meaning::Gap { restart: Some(open), is_loss: false },
            (Some("restart"), None) => {
                return Err("a restart that does not say how many calls were open".into());
            }
            (reason, _) => Meaning::Gap { restart: None, is_loss: reason == Some("loss_accepted") },
        },
        _ => Meaning::Other,
    })
}

fn state(peaks: &[Cow<'_, str>], format: Option<u64>, open: Option<u64>) -> Result<State, String> {
    if format != Some(FORMAT) {
        return Err("a format that this program does not know".into());
    }
    let peak = |text: &Cow<'_, str>| base64(text).and_then(|hash| Hash::try_from(hash).ok());
    let peaks = peaks.iter().map(peak).collect::<Option<_>>().ok_or("one of its peaks is no hash")?;
    Ok(State { peaks, open: open.ok_or("it does not say how many calls wait")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREV: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_head_has_one_spelling() {
        let head_of =
            |seq: &str, prev: &str| head(format!(r#"{{"seq":{seq},"prev":"{prev}","time":""#).as_bytes());
        assert_eq!(head_of("70", PREV).map(|(seq, prev)| (seq, prev[1])), Some((70, 0x23)));
        assert!(head_of("0", PREV).is_some());
        let upper = PREV.to_uppercase();
        for (seq, prev) in [
            ("07", PREV),
            ("", PREV),
            ("+7", PREV),
            ("18446744073709551616", PREV),
            ("7", &upper),
            ("7", &PREV[1..]),
        ] {
            assert_eq!(head_of(seq, prev), None, "{seq} {prev}");
        }
    }
}
