//! `needs:`, `token:`, `certificate:` and `process:` in an agent's entry: what it has to show.

use super::process;
use crate::config::reader::{Fields, Reader};
use crate::config::yaml::Node;
use crate::identity::{CertificateName, ProcessRule, SpiffeId, Subject};
use crate::types::IssuerName;

const SECRET: &str = "secret";
const TOKEN: &str = "token";
const CERTIFICATE: &str = "certificate";
const PROCESS: &str = "process";

/// Longest subject of a token, in bytes (`OpenID` Connect Core 2 allows 255).
pub const SUBJECT_BYTES_MAX: usize = 255;

/// What an agent has to show: all of it. There is always something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// A credential of the guard's. Not together with a token.
    secret: bool,
    token: Option<Token>,
    certificate: Option<CertificateName>,
    process: Option<ProcessRule>,
}

/// Whose signed token an agent shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub issuer: IssuerName,
    /// Its `sub`, byte for byte.
    pub subject: Box<str>,
}

impl Needs {
    pub fn secret(&self) -> bool {
        self.secret
    }

    /// What its token must be; `None`: it shows none.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// What must name it in the certificate of its connection; `None`: it needs none.
    pub fn certificate(&self) -> Option<&CertificateName> {
        self.certificate.as_ref()
    }

    /// What its process must be; `None`: any.
    pub fn process(&self) -> Option<&ProcessRule> {
        self.process.as_ref()
    }

    /// Whether its requests show something in `Authorization`.
    pub fn authorization(&self) -> bool {
        self.secret || self.token.is_some()
    }

    /// Whether it shows nothing: it is its process.
    pub fn is_process_alone(&self) -> bool {
        !self.authorization() && self.certificate.is_none()
    }

    /// Such as `token+process`: the words of records.
    pub fn words(&self) -> String {
        let words = [
            self.secret.then_some("client_secret"),
            self.token.as_ref().map(|_| TOKEN),
            self.certificate.as_ref().map(|_| CERTIFICATE),
            self.process.as_ref().map(|_| PROCESS),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join("+")
    }
}

/// Each may be named and, but for a secret, described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    Token,
    Certificate,
    Process,
}

/// What an entry says of it, with the nodes that name the token's issuer and the certificate.
pub(super) struct Read<'n> {
    pub needs: Needs,
    pub issuer: Option<&'n Node>,
    pub certificate: Option<&'n Node>,
}

/// Reads what an agent has to show; a mistake in it is told, and the agent is left out.
pub(super) fn read<'n>(reader: &mut Reader<'_>, fields: &Fields<'n>) -> Option<Read<'n>> {
    let process = match fields.optional(PROCESS) {
        Some(node) => Some((node, process::read(reader, node)?)),
        None => None,
    };
    let token = match fields.optional(TOKEN) {
        Some(node) => Some((node, described(reader, node)?)),
        None => None,
    };
    let certificate = match fields.optional(CERTIFICATE) {
        Some(node) => Some((node, holder(reader, node)?)),
        None => None,
    };
    let places = Places {
        token: token.as_ref().map(|(node, _)| *node),
        certificate: certificate.as_ref().map(|(node, _)| *node),
        process: process.as_ref().map(|(node, _)| *node),
    };
    let is_secret = if let Some(node) = fields.optional("needs") {
        let named = kinds(reader, node)?;
        check(reader, node, &named, &places)?;
        named.contains(&Kind::Secret)
    } else {
        undemanded(reader, &places)?;
        true
    };
    let issuer = token.as_ref().map(|(_, (_, issuer))| *issuer);
    let needs = Needs {
        secret: is_secret,
        token: token.map(|(_, (token, _))| token),
        certificate: certificate.map(|(_, name)| name),
        process: process.map(|(_, rule)| rule),
    };
    if let (true, Some(node), Some(rule)) = (needs.is_process_alone(), places.process, needs.process()) {
        check_alone(reader, node, rule)?;
    }
    Some(Read { needs, issuer, certificate: places.certificate })
}

/// Where each is described.
struct Places<'n> {
    token: Option<&'n Node>,
    certificate: Option<&'n Node>,
    process: Option<&'n Node>,
}

/// Without `needs`, a token or a certificate would be taken for one that is needed.
fn undemanded(reader: &mut Reader<'_>, places: &Places<'_>) -> Option<()> {
    for (what, node) in [(TOKEN, places.token), (CERTIFICATE, places.certificate)] {
        if let Some(node) = node {
            let hint = format!("add `needs: [{what}]`, or `needs: [{what}, process]` with a process");
            reader.problem(node, format!("the entry describes a {what} that is not needed"), Some(hint));
            return None;
        }
    }
    Some(())
}

/// What is needed is described, what is described is needed, and `Authorization` holds one thing.
fn check(reader: &mut Reader<'_>, node: &Node, named: &[Kind], places: &Places<'_>) -> Option<()> {
    if named.contains(&Kind::Secret) && named.contains(&Kind::Token) {
        let hint = "remove one; both stand in Authorization, of which a request has one";
        reader.problem(node, "an agent shows a secret or a token, not both", Some(hint.into()));
        return None;
    }
    let kinds = [
        (PROCESS, named.contains(&Kind::Process), places.process, "{unit: agent.service}"),
        (TOKEN, named.contains(&Kind::Token), places.token, "{issuer: corp, subject: billing}"),
        (
            CERTIFICATE,
            named.contains(&Kind::Certificate),
            places.certificate,
            "{spiffe: \"spiffe://corp.example/agent/billing\"}",
        ),
    ];
    for (what, is_needed, place, example) in kinds {
        let (at, words, hint) = match (is_needed, place) {
            (true, None) => (
                node,
                format!("needs a {what}, and the entry describes none"),
                format!("describe it, such as `{what}: {example}`"),
            ),
            (false, Some(at)) => (
                at,
                format!("the entry describes a {what} that is not needed"),
                format!("add `{what}` to `needs`, or remove it here"),
            ),
            _ => continue,
        };
        reader.problem(at, words, Some(hint));
        return None;
    }
    Some(())
}

/// A process that is the only proof.
fn check_alone(reader: &mut Reader<'_>, described: &Node, rule: &ProcessRule) -> Option<()> {
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
    Some(())
}

/// `{spiffe: "spiffe://corp.example/agent/billing"}`, `{subject: "CN=billing,O=Corp"}` or `{dns: billing.corp.example}`
fn holder(reader: &mut Reader<'_>, node: &Node) -> Option<CertificateName> {
    let keys = ["spiffe", "subject", "dns"];
    let fields = reader.fields(node, "a certificate", &keys)?;
    let named: Vec<_> = keys.iter().filter_map(|key| fields.optional(key).map(|node| (*key, node))).collect();
    let &[(key, at)] = named.as_slice() else {
        let what =
            format!("a certificate is named by one of spiffe, subject, dns; this one names {}", named.len());
        let hint = "write for example `{spiffe: \"spiffe://corp.example/agent/billing\"}`";
        reader.problem(node, what, Some(hint.into()));
        return None;
    };
    let text = reader.text(at, key)?;
    let (name, fault, hint) = match key {
        "spiffe" => {
            let id = SpiffeId::parse(text);
            let hint = "write it whole, such as spiffe://corp.example/agent/billing";
            (id.clone().ok().map(CertificateName::Spiffe), id.err().map(|fault| fault.to_string()), hint)
        }
        "subject" => {
            let subject = Subject::parse(text);
            let hint =
                "write what `openssl x509 -noout -subject -nameopt RFC2253 -in FILE` prints after `subject=`";
            (
                subject.clone().ok().map(CertificateName::Subject),
                subject.err().map(|fault| fault.to_string()),
                hint,
            )
        }
        _ => {
            let name = CertificateName::dns(text);
            let fault = name.is_none().then(|| "it is no DNS name without a `*`".to_owned());
            (name, fault, "write one of the certificate's DNS names, such as billing.corp.example")
        }
    };
    if let Some(fault) = fault {
        reader.problem(at, format!("{key} {text:?}: {fault}"), Some(hint.into()));
    }
    name
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

fn kinds(reader: &mut Reader<'_>, node: &Node) -> Option<Vec<Kind>> {
    let kinds = [
        (SECRET, Kind::Secret),
        (TOKEN, Kind::Token),
        (CERTIFICATE, Kind::Certificate),
        (PROCESS, Kind::Process),
    ];
    reader.list(node, "needs")?.iter().map(|item| reader.choice(item, "needs", &kinds)).collect()
}
