//! `process:` in an agent's entry.

use crate::config::reader::Reader;
use crate::config::yaml::{Node, Value};
use crate::identity::ProcessRule;
use crate::kernel::{Container, Unit};

const KEYS: [&str; 5] = ["uid", "unit", "container", "executable", "sha256"];
/// `(uid_t) -1` is nobody's.
const UID_MAX: u64 = 0xffff_fffe;

/// Reads what an agent's process must be; a mistake in it is told, and the agent is left out.
pub(super) fn read(reader: &mut Reader<'_>, node: &Node) -> Option<ProcessRule> {
    let fields = reader.fields(node, "a process", &KEYS)?;
    if KEYS.iter().all(|key| fields.optional(key).is_none()) {
        let hint = "name what its process must have, such as `{unit: agent.service}`, or remove the key";
        reader.problem(node, "process asks for nothing", Some(hint.into()));
        return None;
    }
    let mut rule = ProcessRule::default();
    let mut is_whole = true;
    if let Some(node) = fields.optional("uid") {
        rule.uid = uid(reader, node);
        is_whole &= rule.uid.is_some();
    }
    if let Some(node) = fields.optional("unit") {
        rule.unit = parsed(reader, node, "unit", Unit::parse);
        is_whole &= rule.unit.is_some();
    }
    if let Some(node) = fields.optional("container") {
        rule.container = parsed(reader, node, "container", Container::parse);
        is_whole &= rule.container.is_some();
    }
    if let Some(node) = fields.optional("executable") {
        rule.executable = executable(reader, node);
        is_whole &= rule.executable.is_some();
    }
    if let Some(node) = fields.optional("sha256") {
        rule.sha256 = sha256(reader, node);
        is_whole &= rule.sha256.is_some();
    }
    is_whole.then_some(rule)
}

fn uid(reader: &mut Reader<'_>, node: &Node) -> Option<u32> {
    let number = if let Value::Number(number) = &node.value { number.as_u64() } else { None };
    let uid = number.filter(|uid| *uid <= UID_MAX).and_then(|uid| u32::try_from(uid).ok());
    if uid.is_none() {
        let hint = "write the number that `id -u NAME` prints";
        reader.problem(node, format!("uid must be a whole number from 0 to {UID_MAX}"), Some(hint.into()));
    }
    uid
}

fn parsed<T, E: std::fmt::Display>(
    reader: &mut Reader<'_>,
    node: &Node,
    what: &str,
    parse: fn(&str) -> Result<T, E>,
) -> Option<T> {
    let text = reader.text(node, what)?;
    match parse(text) {
        Ok(value) => Some(value),
        Err(error) => {
            reader.problem(node, format!("{what} {text:?}: {error}"), None);
            None
        }
    }
}

fn executable(reader: &mut Reader<'_>, node: &Node) -> Option<String> {
    let text = reader.text(node, "executable")?;
    let is_plain = text.starts_with('/')
        && !text.ends_with('/')
        && !text.contains("//")
        && !text.split('/').any(|part| part == "." || part == "..");
    if !is_plain {
        let hint = "write its whole path, as `readlink /proc/PID/exe` prints it";
        reader.problem(node, format!("executable {text:?} is not a path of a file"), Some(hint.into()));
    }
    is_plain.then(|| text.to_owned())
}

fn sha256(reader: &mut Reader<'_>, node: &Node) -> Option<[u8; 32]> {
    let text = reader.text(node, "sha256")?;
    let mut digest = [0; 32];
    if hex::decode_to_slice(text, &mut digest).is_err() {
        let hint = "write the 64 hex digits that `sha256sum FILE` prints";
        reader.problem(node, format!("sha256 {text:?} is no SHA-256"), Some(hint.into()));
        return None;
    }
    Some(digest)
}
