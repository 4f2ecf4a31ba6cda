//! `needs:`, `token:` and `process:` in an agent's entry: what it has to show.

use super::{Needs, process};
use crate::config::reader::{Fields, Reader};
use crate::config::yaml::Node;
use crate::identity::ProcessRule;
use crate::types::IssuerName;

const SECRET: &str = "secret";
const TOKEN: &str = "token";
const PROCESS: &str = "process";

/// Longest subject of a token, in bytes (`OpenID` Connect Core 2 allows 255).
pub const SUBJECT_BYTES_MAX: usize = 255;

/// Whose signed token an agent shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub issuer: IssuerName,
    /// Its `sub`, byte for byte.
    pub subject: Box<str>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Secret,
    Token,
    Process,
}

/// Each may be named and, but for a secret, described.
#[derive(Debug, Clone, Copy, Default)]
struct Named {
    secret: bool,
    token: bool,
    process: bool,
}

/// Reads what an agent has to show; a mistake in it is told, and the agent is left out. A token's issuer comes with the node
/// that names it.
pub(super) fn read<'n>(reader: &mut Reader<'_>, fields: &Fields<'n>) -> Option<(Needs, Option<&'n Node>)> {
    let process = match fields.optional(PROCESS) {
        Some(node) => Some((node, process::read(reader, node)?)),
        None => None,
    };
    let token = match fields.optional(TOKEN) {
        Some(node) => Some((node, described(reader, node)?)),
        None => None,
    };
    let Some(node) = fields.optional("needs") else {
        if let Some((described, _)) = token {
            let hint = "add `needs: [token]`, or `needs: [token, process]` with a process";
            reader.problem(described, "the entry describes a token that is not needed", Some(hint.into()));
            return None;
        }
        return Some((process.map_or(Needs::Secret, |(_, rule)| Needs::SecretIn(rule)), None));
    };
    let named = kinds(reader, node)?;
    check(
        reader,
        node,
        named,
        (token.as_ref().map(|(node, _)| *node), process.as_ref().map(|(node, _)| *node)),
    )?;
    let issuer = token.as_ref().map(|(_, (_, issuer))| *issuer);
    let needs = match (token.map(|(_, (token, _))| token), process) {
        (Some(token), None) => Needs::Token(token),
        (Some(token), Some((_, rule))) => Needs::TokenIn(token, rule),
        (None, None) => Needs::Secret,
        (None, Some((_, rule))) if named.secret => Needs::SecretIn(rule),
        (None, Some((described, rule))) => Needs::Process(alone(reader, described, rule)?),
    };
    Some((needs, issuer))
}

/// What is needed is described, what is described is needed, and `Authorization` holds one thing.
fn check(
    reader: &mut Reader<'_>,
    node: &Node,
    named: Named,
    (token, process): (Option<&Node>, Option<&Node>),
) -> Option<()> {
    let fault = if named.secret && named.token {
        let hint = "remove one; both stand in Authorization, of which a request has one";
        Some((node, "an agent shows a secret or a token, not both", hint))
    } else if named.process && process.is_none() {
        let hint = "describe it, such as `process: {unit: agent.service}`";
        Some((node, "needs a process, and the entry describes none", hint))
    } else if named.token && token.is_none() {
        let hint = "describe it, such as `token: {issuer: corp, subject: billing}`";
        Some((node, "needs a token, and the entry describes none", hint))
    } else if process.is_some() && !named.process {
        let secret = "write `needs: [secret, process]`, or remove `process`";
        let hint = if named.token { "write `needs: [token, process]`, or remove `process`" } else { secret };
        Some((node, "the entry describes a process that is not needed", hint))
    } else if let Some(described) = token.filter(|_| !named.token) {
        let hint = "add `token` to `needs`, or remove it here";
        Some((described, "the entry describes a token that is not needed", hint))
    } else {
        None
    };
    if let Some((node, what, hint)) = fault {
        reader.problem(node, what, Some(hint.into()));
        return None;
    }
    Some(())
}

/// A process that is the only proof.
fn alone(reader: &mut Reader<'_>, described: &Node, rule: ProcessRule) -> Option<ProcessRule> {
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
    Some(rule)
}

/// `{issuer: corp, subject: billing}`
fn described<'n>(reader: &mut Reader<'_>, node: &'n Node) -> Option<(Token, &'n Node)> {
    let fields = reader.fields(node, "a token", &["issuer", "subject"])?;
    let issuer = fields.required("issuer", reader);
    let named = issuer.and_then(|node| Some((reader.name(node, "issuer", IssuerName::parse)?, node)));
    let subject = fields.required("subject", reader);
    let subject = subject.and_then(|node| {
        let text = reader.text(node, "subject")?;
        let is_subject =
            !text.is_empty() && text.len() <= SUBJECT_BYTES_MAX && !text.chars().any(char::is_control);
        if !is_subject {
            let hint = "write what its tokens have as `sub`";
            let what = format!("subject {text:?} is not text of 1 to {SUBJECT_BYTES_MAX} bytes");
            reader.problem(node, what, Some(hint.into()));
        }
        is_subject.then(|| text.into())
    });
    let (issuer, at) = named?;
    Some((Token { issuer, subject: subject? }, at))
}

fn kinds(reader: &mut Reader<'_>, node: &Node) -> Option<Named> {
    let mut named = Named::default();
    for item in reader.list(node, "needs")? {
        let kinds = [(SECRET, Kind::Secret), (TOKEN, Kind::Token), (PROCESS, Kind::Process)];
        match reader.choice(item, "needs", &kinds)? {
            Kind::Secret => named.secret = true,
            Kind::Token => named.token = true,
            Kind::Process => named.process = true,
        }
    }
    Some(named)
}
