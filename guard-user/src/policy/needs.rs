//! `needs:` and `process:` in an agent's entry: what it has to show.

use super::{Needs, process};
use crate::config::reader::{Fields, Reader};
use crate::config::yaml::Node;

const SECRET: &str = "secret";
const PROCESS: &str = "process";

#[derive(Debug, Clone, Copy)]
enum Kind {
    Secret,
    Process,
}

/// Reads what an agent has to show; a mistake in it is told, and the agent is left out.
pub(super) fn read(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Needs> {
    let described = fields.optional("process");
    let rule = match described {
        Some(node) => Some(process::read(reader, node)?),
        None => None,
    };
    let Some(node) = fields.optional("needs") else {
        return Some(rule.map_or(Needs::Secret, Needs::SecretIn));
    };
    let (secret, process) = kinds(reader, node)?;
    match (secret, process, rule, described) {
        (true, true, Some(rule), _) => Some(Needs::SecretIn(rule)),
        (true, false, None, _) => Some(Needs::Secret),
        (false, true, Some(rule), Some(described)) => {
            if rule.uid.is_none() && rule.unit.is_none() && rule.container.is_none() {
                let hint = "add `uid`, `unit` or `container`: any user of the host can start that program";
                let what = "a process that is the only proof must say whose it is";
                reader.problem(described, what, Some(hint.into()));
                return None;
            }
            if rule.sha256.is_some() && rule.executable.is_none() {
                let hint = "add `executable`: else whatever that user starts is read whole to tell";
                reader.problem(described, "sha256 without the path of the program", Some(hint.into()));
                return None;
            }
            Some(Needs::Process(rule))
        }
        (_, true, ..) => {
            let hint = "describe it, such as `process: {unit: agent.service}`";
            reader.problem(node, "needs a process, and the entry describes none", Some(hint.into()));
            None
        }
        (_, false, ..) => {
            let hint = "write `needs: [secret, process]`, or remove `process`";
            reader.problem(node, "the entry describes a process that is not needed", Some(hint.into()));
            None
        }
    }
}

/// Whether a secret is needed, and whether a process is.
fn kinds(reader: &mut Reader<'_>, node: &Node) -> Option<(bool, bool)> {
    let (mut secret, mut process) = (false, false);
    for item in reader.list(node, "needs")? {
        match reader.choice(item, "needs", &[(SECRET, Kind::Secret), (PROCESS, Kind::Process)])? {
            Kind::Secret => secret = true,
            Kind::Process => process = true,
        }
    }
    Some((secret, process))
}
