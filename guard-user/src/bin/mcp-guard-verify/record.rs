//! What one line says, as far as the trail's soundness goes. Each line is read on its own.

use std::borrow::Cow;

use super::note::base64;
use super::spelling::{self, Members};
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
#[derive(Default)]
struct Fields<'a> {
    kind: Option<Cow<'a, str>>,
    format: Option<u64>,
    origin: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    decision: Option<Cow<'a, str>>,
    call_seq: Option<u64>,
    note: Option<Cow<'a, str>>,
    reason: Option<Cow<'a, str>>,
    open_count: Option<u64>,
    peaks: Option<Vec<String>>,
    to: Option<u64>,
    epoch: Option<u64>,
    time: Option<Cow<'a, str>>,
    cause: Option<Cow<'a, str>>,
}

impl<'a> Fields<'a> {
    /// Names have one spelling, so that none of these is missed.
    fn of(members: &Members<'a>) -> Result<Self, String> {
        let mut fields = Self::default();
        for &(name, value) in members {
            match name {
                b"kind" => fields.kind = given(name, value, text)?,
                b"format" => fields.format = given(name, value, number)?,
                b"origin" => fields.origin = given(name, value, text)?,
                b"id" => fields.id = given(name, value, text)?,
                b"decision" => fields.decision = given(name, value, text)?,
                b"call_seq" => fields.call_seq = given(name, value, number)?,
                b"note" => fields.note = given(name, value, text)?,
                b"reason" => fields.reason = given(name, value, text)?,
                b"open_count" => fields.open_count = given(name, value, number)?,
                b"peaks" => fields.peaks = given(name, value, |value| serde_json::from_slice(value).ok())?,
                b"to" => fields.to = given(name, value, number)?,
                b"epoch" => fields.epoch = given(name, value, number)?,
                b"time" => fields.time = given(name, value, text)?,
                // Nothing here goes by it.
                b"lost_to" => drop(given(name, value, number)?),
                b"cause" => fields.cause = given(name, value, text)?,
                _ => {}
            }
        }
        Ok(fields)
    }
}

/// What `read` makes of a value; nothing of `null`.
fn given<'a, T>(
    name: &[u8],
    value: &'a [u8],
    read: impl FnOnce(&'a [u8]) -> Option<T>,
) -> Result<Option<T>, String> {
    if value == b"null" {
        return Ok(None);
    }
    let other = || format!("its {} is of another type", String::from_utf8_lossy(name));
    read(value).map(Some).ok_or_else(other)
}

fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    let plain = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if plain.contains(&b'\\') {
        return serde_json::from_slice(value).ok().map(Cow::Owned);
    }
    str::from_utf8(plain).ok().map(Cow::Borrowed)
}

fn number(value: &[u8]) -> Option<u64> {
    str::from_utf8(value).ok()?.parse().ok()
}

/// Reads a line without its newline; says what keeps it from being a record.
pub(crate) fn read(line: &[u8]) -> Result<Record, String> {
    // Without an early end, so that many bytes are compared at once.
    if line.iter().fold(false, |is_odd, byte| is_odd | !(0x20..0x7f).contains(byte)) {
        return Err("a byte that is not printable ASCII".into());
    }
    let (seq, prev) = head(line).ok_or("it does not begin as a record does")?;
    let fields = Fields::of(&spelling::read(line)?)?;
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
    let kind = fields.kind.ok_or("it does not say what kind of a record it is")?;
    Ok(match (&*kind, id, fields.decision.as_deref()) {
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

fn state(peaks: &[String], format: Option<u64>, open: Option<u64>) -> Result<State, String> {
    if format != Some(FORMAT) {
        return Err("a format that this program does not know".into());
    }
    let peak = |text: &String| base64(text).and_then(|hash| Hash::try_from(hash).ok());
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
