//! A call's arguments in its record: each value as a keyed digest, and what the policy lists in clear as well.
//!
//! Who has the trail and not the key learns no value from it, not even one of few that it could be. Who has the key finds
//! every call with a value that he knows.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::{hmac, rand};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{disk, text};
use crate::rpc::Json;
use crate::types::ArgumentPath;

/// Where the key of the digests is kept: 32 random bytes in hex, mode 0600.
pub const DIGEST_KEY_FILE: &str = "digest-key";
/// Values of one call that have a digest of their own; the digest of all of them has the rest.
pub const ARGUMENT_VALUES_MAX: usize = 64;
/// Bytes of a record that the names of arguments and what is in clear may take.
pub const ARGUMENTS_BYTES_MAX: usize = 8 * 1024;
/// What a character of a name or value takes at most in a record, for each of its bytes: `\u007f`.
const ESCAPED_BYTES_MAX: usize = 6;
/// Hex digits of a digest in a record: 128 bits.
const DIGITS: usize = 32;
const KEY_BYTES: usize = 32;
/// 2^64: a whole number below it has its digits for its spelling, however it was written.
const WHOLE_MAX: f64 = 18_446_744_073_709_551_616.0;

/// Makes the digests. The key lives as long as the trail does.
#[derive(Debug)]
pub struct Digester {
    key: hmac::Key,
    /// Names the key: 16 hex digits of a SHA-256 over it.
    id: String,
}

/// The arguments of one call, as its record has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arguments {
    /// Of all names and values together.
    digest: String,
    values: Vec<Value>,
    /// Values without a digest of their own.
    #[serde(skip_serializing_if = "is_none")]
    left_off: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Value {
    /// `to[0]`, `customer.name`
    #[serde(serialize_with = "named")]
    name: String,
    digest: String,
    /// JSON text, where the policy lists it.
    #[serde(serialize_with = "shown", skip_serializing_if = "Option::is_none")]
    clear: Option<String>,
}

impl Digester {
    /// The key that stands in `dir`, or a new one.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        match Self::read(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            read => return read,
        }
        let mut bytes = [0; KEY_BYTES];
        rand::fill(&mut bytes).map_err(|_unspecified| io::Error::other("no random numbers"))?;
        disk::replace(dir, DIGEST_KEY_FILE, format!("{}\n", hex::encode(bytes)).as_bytes())?;
        disk::sync_dir(dir)?;
        Ok(Self::new(&bytes))
    }

    /// The key that stands in `dir`. One that others may read is refused.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let path = dir.join(DIGEST_KEY_FILE);
        if fs::metadata(&path)?.permissions().mode() & 0o077 != 0 {
            return Err(io::Error::other("others may read it; chmod 600 it if nobody else has"));
        }
        let mut bytes = [0; KEY_BYTES];
        hex::decode_to_slice(fs::read_to_string(&path)?.trim_end(), &mut bytes).map_err(|error| {
            io::Error::new(ErrorKind::InvalidData, format!("it is not 64 hex digits: {error}"))
        })?;
        Ok(Self::new(&bytes))
    }

    fn new(key: &[u8; KEY_BYTES]) -> Self {
        let name = Sha256::new().chain_update(b"mcp-guard digest key\0").chain_update(key).finalize();
        let id = hex::encode(name.first_chunk::<8>().unwrap_or(&[0; 8]));
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), id }
    }

    /// Names the key in `start` records.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Of a text, number, truth value or null; the same wherever it stands, and however a number is written.
    pub fn value(&self, value: &Json) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        feed(&mut context, value);
        digits(context)
    }

    /// Of a `result` or `error` as it was passed on, byte for byte.
    pub fn result(&self, json: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(b"r");
        context.update(json);
        digits(context)
    }

    /// `in_clear`: paths of what is shown, too.
    pub fn arguments(&self, arguments: &Json, in_clear: &[Box<ArgumentPath>]) -> Arguments {
        let mut found =
            Leaves { of: self, in_clear, is_listed: true, values: Vec::new(), bytes: 0, left_off: 0 };
        // What is listed has its place whatever else the agent sends, and leaves room for the rest.
        if !in_clear.is_empty() {
            found.walk(arguments, &mut Vec::new(), None);
        }
        found.is_listed = false;
        let mut all = hmac::Context::with_key(&self.key);
        found.walk(arguments, &mut Vec::new(), Some(&mut all));
        Arguments { digest: digits(all), values: found.values, left_off: found.left_off }
    }
}

/// What is found in one call's arguments so far.
struct Leaves<'a> {
    of: &'a Digester,
    in_clear: &'a [Box<ArgumentPath>],
    /// Those that are listed are looked for, or the others.
    is_listed: bool,
    values: Vec<Value>,
    bytes: usize,
    left_off: usize,
}

/// A step to a value.
#[derive(Clone, Copy)]
enum Step<'a> {
    Member(&'a str),
    Entry(usize),
}

impl<'a> Leaves<'a> {
    /// `all` is fed with every value.
    fn walk(&mut self, value: &'a Json, path: &mut Vec<Step<'a>>, mut all: Option<&mut hmac::Context>) {
        match value {
            Json::Object(members) if !members.is_empty() => {
                if let Some(all) = all.as_deref_mut() {
                    open(all, b'{', members.len());
                }
                for (name, inner) in members {
                    if let Some(all) = all.as_deref_mut() {
                        sized(all, name.as_bytes());
                    }
                    path.push(Step::Member(name));
                    self.walk(inner, path, all.as_deref_mut());
                    path.pop();
                }
            }
            Json::Array(entries) if !entries.is_empty() => {
                if let Some(all) = all.as_deref_mut() {
                    open(all, b'[', entries.len());
                }
                for (at, inner) in entries.iter().enumerate() {
                    path.push(Step::Entry(at));
                    self.walk(inner, path, all.as_deref_mut());
                    path.pop();
                }
            }
            leaf => {
                if let Some(all) = all {
                    feed(all, leaf);
                }
                self.leaf(leaf, path);
            }
        }
    }

    /// Costs little where there is no room: names are as long as their agent likes, and may stand before many values.
    fn leaf(&mut self, value: &Json, path: &[Step<'a>]) {
        let share = if self.is_listed { 2 } else { 1 };
        let (values_max, bytes_max) = (ARGUMENT_VALUES_MAX / share, ARGUMENTS_BYTES_MAX / share);
        let is_listed = self.is_clear(path);
        if is_listed != self.is_listed {
            return;
        }
        let clear = |text: &Json| text_bytes(text).min(text::NAME_BYTES_MAX);
        let shown = name_bytes(path).min(text::NAME_BYTES_MAX) + if is_listed { clear(value) } else { 0 };
        let bytes = self.bytes + shown.saturating_mul(ESCAPED_BYTES_MAX);
        if self.values.len() >= values_max || bytes > bytes_max {
            self.left_off += 1;
            return;
        }
        self.bytes = bytes;
        let clear = is_listed.then(|| written(value));
        self.values.push(Value { name: name(path), digest: self.of.value(value), clear });
    }

    fn is_clear(&self, path: &[Step<'_>]) -> bool {
        let members =
            || path.iter().filter_map(|step| if let Step::Member(name) = step { Some(*name) } else { None });
        self.in_clear.iter().any(|listed| {
            let mut members = members();
            listed.iter().all(|wanted| members.next() == Some(wanted))
        })
    }
}

/// `to[0]`, `customer.name`; as long as it is, since it is cut in the record.
fn name(path: &[Step<'_>]) -> String {
    let mut name = String::new();
    for step in path {
        match step {
            Step::Member(member) if name.is_empty() => name.push_str(member),
            Step::Member(member) => {
                name.push('.');
                name.push_str(member);
            }
            Step::Entry(at) => {
                use std::fmt::Write as _;
                let _infallible = write!(name, "[{at}]");
            }
        }
    }
    name
}

/// At least as long as the name is.
fn name_bytes(path: &[Step<'_>]) -> usize {
    let digits =
        |at: usize| at.checked_ilog10().and_then(|last| usize::try_from(last).ok()).unwrap_or_default() + 1;
    path.iter().fold(0, |bytes: usize, step| {
        bytes.saturating_add(match step {
            Step::Member(member) => member.len() + 1,
            Step::Entry(at) => digits(*at) + "[]".len(),
        })
    })
}

/// Of a value's JSON text, before what it escapes.
fn text_bytes(value: &Json) -> usize {
    if let Json::String(text) = value { text.len() + 2 } else { written(value).len() }
}

/// A value's JSON text. Lists and objects here are empty ones.
fn written(value: &Json) -> String {
    match value {
        Json::Null => "null".to_owned(),
        Json::Bool(value) => value.to_string(),
        Json::Number(number) => number.to_string(),
        Json::String(text) => serde_json::Value::from(text.as_str()).to_string(),
        Json::Array(_) => "[]".to_owned(),
        Json::Object(_) => "{}".to_owned(),
    }
}

/// No two values feed the same bytes, but for one number in several spellings.
fn feed(context: &mut hmac::Context, value: &Json) {
    match value {
        Json::Null => context.update(b"z"),
        Json::Bool(value) => context.update(if *value { b"t" } else { b"f" }),
        Json::Number(number) => {
            context.update(b"n");
            sized(context, plain(number).as_bytes());
        }
        Json::String(text) => {
            context.update(b"s");
            sized(context, text.as_bytes());
        }
        Json::Array(_) => open(context, b'[', 0),
        Json::Object(_) => open(context, b'{', 0),
    }
}

/// One spelling for `100`, `100.0` and `1e2`.
fn plain(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float == 0.0 => "0".to_owned(),
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < WHOLE_MAX => {
            format!("{float:.0}")
        }
        Some(float) if number.is_f64() => format!("{float:e}"),
        _ => number.to_string(),
    }
}

fn open(context: &mut hmac::Context, tag: u8, length: usize) {
    context.update(&[tag]);
    context.update(&u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
}

/// Length first, so that what follows cannot be taken for a part of it.
fn sized(context: &mut hmac::Context, bytes: &[u8]) {
    context.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
    context.update(bytes);
}

fn digits(context: hmac::Context) -> String {
    let mut digits = hex::encode(context.sign());
    digits.truncate(DIGITS);
    digits
}

fn named<S: serde::Serializer>(name: &str, to: S) -> Result<S::Ok, S::Error> {
    text::name(name, to)
}

#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn shown<S: serde::Serializer>(clear: &Option<String>, to: S) -> Result<S::Ok, S::Error> {
    text::name(clear.as_deref().unwrap_or_default(), to)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
fn is_none(count: &usize) -> bool {
    *count == 0
}

impl Arguments {
    /// For a record that would be too long with them.
    pub(super) fn without_values(&self) -> Self {
        let left_off = self.left_off.saturating_add(self.values.len());
        Self { digest: self.digest.clone(), values: Vec::new(), left_off }
    }
}

#[cfg(test)]
impl Arguments {
    /// As long in a record as an agent can make them.
    pub(super) fn longest_for_tests() -> Self {
        let name = "\u{7f}".repeat(ARGUMENTS_BYTES_MAX / ARGUMENT_VALUES_MAX / ESCAPED_BYTES_MAX);
        let value = Value { name, digest: "f".repeat(DIGITS), clear: None };
        Self { digest: "f".repeat(DIGITS), values: vec![value; ARGUMENT_VALUES_MAX], left_off: usize::MAX }
    }
}

#[cfg(test)]
mod tests;
