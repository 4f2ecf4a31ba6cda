//! What is counted apart. A key is its window's id and the parts that the rule names, in bytes that fit a record.

use std::ops::Deref;

use aws_lc_rs::digest::{SHA256, digest};

use crate::policy::{Meter, Part, ScopeId};
use crate::types::{AgentName, IntentName, ServerName};

/// Bytes of a part that are kept as they are; a longer one is cut and gets a digest.
const PART_BYTES_MAX: usize = 64;
/// What is left of such a part.
const CUT_BYTES: usize = 40;
/// Stands where something was cut or replaced, and in no part that is kept as it is.
const MARK: char = '~';

/// The call that is counted.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub agent: &'a AgentName,
    /// On whose behalf, where that is known.
    pub user: Option<&'a str>,
    /// The session's id.
    pub session: Option<&'a str>,
    pub server: &'a ServerName,
    pub tool: Option<&'a str>,
}

/// A key where it is kept: most are short, and then a look at one is no look at other memory.
#[derive(Debug)]
pub(super) enum Key {
    Short { length: u8, bytes: [u8; SHORT_BYTES_MAX] },
    Long(Box<[u8]>),
}

const SHORT_BYTES_MAX: usize = 38;

impl Key {
    pub(super) fn new(key: &[u8]) -> Self {
        let mut bytes = [0; SHORT_BYTES_MAX];
        match (bytes.get_mut(..key.len()), u8::try_from(key.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(key);
                Self::Short { length, bytes }
            }
            _ => Self::Long(key.into()),
        }
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

/// Appends the key under which `meter` counts `call`.
///
/// What has no user, session or tool is counted under a key of its agent for all such calls, so that nothing is uncounted.
pub(super) fn write(to: &mut Vec<u8>, meter: &Meter, call: &Call<'_>) {
    to.extend_from_slice(&meter.scope.0);
    for part in meter.rule.per.parts() {
        let length_at = to.len();
        to.push(0);
        let text = match part {
            Part::Agent => Some(call.agent.as_str()),
            Part::User => call.user,
            Part::Session => None,
            Part::Tool => call.tool,
            Part::Intent => meter.intent.as_ref().map(IntentName::as_str),
            Part::Server => Some(call.server.as_str()),
        };
        match (text, call.session) {
            (Some(text), _) => push(to, text),
            // Two servers may give the same id.
            (None, Some(session)) if part == Part::Session => {
                let name = hex(session);
                push(to, &format!("{name}@{}", call.server));
            }
            (None, _) => {
                to.extend_from_slice(b"~none:");
                push(to, call.agent.as_str());
            }
        }
        let length = to.len() - length_at - 1;
        if let (Some(at), Ok(length)) = (to.get_mut(length_at), u8::try_from(length)) {
            *at = length;
        }
    }
}

/// A key's window.
pub(super) fn scope(key: &[u8]) -> Option<ScopeId> {
    key.first_chunk::<8>().copied().map(ScopeId)
}

/// A key's window and parts.
pub(super) fn read(key: &[u8]) -> Option<(ScopeId, Vec<&str>)> {
    let (scope, mut rest) = key.split_first_chunk::<8>()?;
    let mut parts = Vec::new();
    while let Some((length, after)) = rest.split_first() {
        let (part, after) = after.split_at_checked(usize::from(*length))?;
        parts.push(std::str::from_utf8(part).ok()?);
        rest = after;
    }
    Some((ScopeId(*scope), parts))
}

/// A part as a key keeps it.
pub(super) fn kept(text: &str) -> String {
    let mut part = Vec::new();
    push(&mut part, text);
    String::from_utf8_lossy(&part).into_owned()
}

/// The key that was read as these. `None`: no key is like this.
pub(super) fn join<'p>(scope: ScopeId, parts: impl IntoIterator<Item = &'p str>) -> Option<Vec<u8>> {
    let mut key = scope.0.to_vec();
    for part in parts {
        key.push(u8::try_from(part.len()).ok()?);
        key.extend_from_slice(part.as_bytes());
    }
    Some(key)
}

/// A part that needs no escape in a record or on a terminal. It is cut if it is long; then, and if a character was replaced,
/// a digest tells it from others.
fn push(to: &mut Vec<u8>, text: &str) {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | MARK);
    if text.len() <= PART_BYTES_MAX && text.bytes().all(|byte| is_plain(char::from(byte))) {
        return to.extend_from_slice(text.as_bytes());
    }
    let plain = text.chars().take(CUT_BYTES).map(|c| if is_plain(c) { c } else { '_' });
    let shown: String = plain.chain([MARK]).collect();
    to.extend_from_slice(shown.as_bytes());
    to.extend_from_slice(hex(text).as_bytes());
}

/// The first 8 bytes of the SHA-256: a session's name in records, too.
fn hex(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()).as_ref().get(..8).unwrap_or_default())
}
