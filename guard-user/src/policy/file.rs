//! The shape of a policy file: what each key means, and where everything stands, for messages.

mod condition;
mod flow;
mod intent;
mod pack;
mod profile;
mod risk;
mod session;
mod velocity;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::rule::{IntentPattern, RuleName};
use super::{Needs, needs};
use crate::config::problem::{Problem, Problems};
use crate::config::reader::{Fields, Reader};
use crate::config::yaml::{self, Node, Value};
use crate::types::{AgentName, ClientId, ProfileName, ServerName};

pub use condition::CONDITION_ENTRIES_MAX;
pub(super) use condition::{Asked, AskedMark, Clause, MarkClause};
pub use flow::MIN_HITS_MAX;
pub(super) use flow::{Carries, Flow, FlowRule, InspectRule};
pub use intent::RISK_ADDITIONS_MAX;
pub(super) use intent::{Intent, Matcher};
pub(super) use pack::{PackFile, PackUse, read_pack};
pub(super) use profile::Profile;
pub(super) use risk::Risk;
pub(super) use velocity::Velocity;
pub use velocity::{VELOCITY_MAX, VELOCITY_WEIGHT_MAX, WINDOW_SECONDS_MAX};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub value: T,
    pub place: Place,
}

/// A line of a policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub file: Arc<Path>,
    pub line: u64,
    pub column: u64,
}

impl Place {
    pub(super) fn problem(&self, what: impl Into<String>, hint: Option<String>) -> Problem {
        Problem {
            file: self.file.to_path_buf(),
            line: Some(self.line),
            column: Some(self.column),
            what: what.into(),
            hint,
        }
    }

    /// `seed.yaml:14`
    pub(super) fn short(&self) -> String {
        let name = self.file.file_name().unwrap_or(self.file.as_os_str());
        format!("{}:{}", name.to_string_lossy(), self.line)
    }

    /// `seed.yaml:14:5`, where `seed.yaml:14` is two places.
    fn exact(&self) -> String {
        format!("{}:{}", self.short(), self.column)
    }
}

/// All policy files together, each value still where it stands.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub agents: Vec<Agent>,
    pub intents: Vec<Intent>,
    pub profiles: Vec<Profile>,
    pub policies: Vec<PolicyRule>,
    pub velocity: Vec<Velocity>,
    /// How calls are scored; there may be one.
    pub risk: Vec<At<Risk>>,
    pub flow: Flow,
    /// Packs that are bound to servers.
    pub packs: Vec<PackUse>,
    /// Servers whose rules bind nobody: records tell what they would have done.
    pub shadow_servers: Vec<At<ServerName>>,
}

#[derive(Debug)]
pub(super) struct Agent {
    pub name: At<AgentName>,
    pub client: ClientId,
    pub profiles: Vec<ProfileName>,
    /// `None`: every server that an intent of its rules names.
    pub servers: Option<Vec<At<ServerName>>>,
    pub needs: Needs,
    /// Where it names the issuer of its token.
    pub issuer: Option<Place>,
    /// Where it describes its certificate.
    pub certificate: Option<Place>,
}

#[derive(Debug)]
pub(super) struct PolicyRule {
    pub name: RuleName,
    pub place: Place,
    pub intent: At<IntentPattern>,
    pub agents: Vec<At<AgentName>>,
    pub decision: Choice,
    pub reason: Option<Arc<str>>,
    pub conditions: Vec<At<Clause>>,
    pub reviewers: Vec<String>,
    /// It does not bind; records tell what it would have done.
    pub is_shadow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Allow,
    Deny,
    Escalate,
}

/// Reads one file's text into `document`; what cannot be read is left out and told in the result.
pub(super) fn read(file: &Path, text: &str, document: &mut Document) -> Problems {
    let node = match yaml::nodes(file, text) {
        Ok(node) => node,
        Err(problem) => return problem.into(),
    };
    // A file of comments alone is a file without rules.
    if node.value == Value::Null {
        return Problems::default();
    }
    let mut reader =
        File { reader: Reader::new(file), path: file.into(), crowded: HashSet::new(), no_server: None };
    reader.document(&node, document);
    reader.reader.finish()
}

struct File<'f> {
    reader: Reader<'f>,
    path: Arc<Path>,
    /// Lines on which several rules begin, so that a line alone names none of them.
    crowded: HashSet<u64>,
    /// What stands for the server in a pack, whose matchers name none.
    no_server: Option<ServerName>,
}

impl File<'_> {
    fn document(&mut self, node: &Node, document: &mut Document) {
        let keys = [
            "agents",
            "intents",
            "profiles",
            "policies",
            "velocity_rules",
            "risk",
            "packs",
            "labels",
            "default_label",
            "default_sink",
            "flow_rules",
            "inspect",
            "shadow_servers",
        ];
        let Some(fields) = self.reader.fields(node, "a policy file", &keys) else { return };
        for (key, name, value) in self.section(&fields, "agents") {
            document.agents.extend(self.agent(key, name, value));
        }
        for (key, name, value) in self.section(&fields, "intents") {
            document.intents.extend(self.intent(key, name, value));
        }
        for node in self.items(&fields, "packs") {
            document.packs.extend(self.pack_use(node));
        }
        if let Some(node) = fields.optional("shadow_servers").filter(|node| node.value != Value::Null) {
            document.shadow_servers.extend(self.names(node, "shadow_servers", ServerName::parse));
        }
        if let Some(node) = fields.optional("risk").filter(|node| node.value != Value::Null) {
            document.risk.extend(self.risk(node));
        }
        let profiles = self.section(&fields, "profiles");
        let (policies, velocity_rules) =
            (self.items(&fields, "policies"), self.items(&fields, "velocity_rules"));
        let mut lines = HashSet::new();
        let of_data = [self.items(&fields, "flow_rules"), self.items(&fields, "inspect")];
        let all = policies.iter().chain(velocity_rules).chain(of_data.into_iter().flatten());
        let all =
            all.chain(profiles.iter().flat_map(|(.., node)| profile::limits(node))).map(|node| node.line);
        self.crowded = all.filter(|line| !lines.insert(*line)).collect();
        for (key, name, node) in profiles {
            let Some((profile, limits)) = self.profile(key, name, node) else { continue };
            document.profiles.extend(profile);
            document.velocity.extend(limits);
        }
        for node in policies {
            document.policies.extend(self.policy(node));
        }
        for node in velocity_rules {
            document.velocity.extend(self.velocity(node));
        }
        self.flow(&fields, of_data, document);
    }

    fn section<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Vec<(&'n Node, &'n str, &'n Node)> {
        let node = fields.optional(key).filter(|node| node.value != Value::Null);
        node.and_then(|node| self.reader.entries(node, key)).unwrap_or_default()
    }

    fn items<'n>(&mut self, fields: &Fields<'n>, key: &str) -> &'n [Node] {
        let node = fields.optional(key).filter(|node| !matches!(&node.value, Value::Null));
        match node {
            Some(Node { value: Value::List(items), .. }) => items,
            Some(node) => self.reader.list(node, key).unwrap_or_default(),
            None => &[],
        }
    }

    fn agent(&mut self, key: &Node, name: &str, node: &Node) -> Option<Agent> {
        let name = match AgentName::parse(name) {
            Ok(name) => Some(self.at(key, name)),
            Err(error) => {
                self.reader.problem(key, format!("agent {name:?}: {error}"), None);
                None
            }
        };
        let fields = self.reader.fields(
            node,
            "an agent",
            &["client_id", "profiles", "servers", "needs", "token", "certificate", "process"],
        )?;
        let client = fields.required("client_id", &mut self.reader);
        let client = client.and_then(|node| self.reader.name(node, "client_id", ClientId::parse));
        let profiles = match fields.optional("profiles") {
            Some(node) => self.names(node, "profiles", ProfileName::parse),
            None => ProfileName::parse(DEFAULT_PROFILE)
                .map(|profile| vec![self.at(key, profile)])
                .unwrap_or_default(),
        };
        let servers = fields.optional("servers").map(|node| self.names(node, "servers", ServerName::parse));
        let profiles = profiles.into_iter().map(|profile| profile.value).collect();
        let needs::Read { needs, issuer, certificate } = needs::read(&mut self.reader, &fields)?;
        let issuer = issuer.map(|node| self.place(node));
        let certificate = certificate.map(|node| self.place(node));
        Some(Agent { name: name?, client: client?, profiles, servers, needs, issuer, certificate })
    }

    fn policy(&mut self, node: &Node) -> Option<PolicyRule> {
        let keys = ["name", "intent", "agents", "decision", "reason", "conditions", "escalation", "shadow"];
        let fields = self.reader.fields(node, "a policy", &keys)?;
        let place = self.place(node);
        let name = self.rule_name(&fields, &place);
        let intent = fields.required("intent", &mut self.reader).and_then(|node| self.pattern(node));
        let agents = fields
            .required("agents", &mut self.reader)
            .map(|node| self.names(node, "agents", AgentName::parse))
            .unwrap_or_default();
        let decision = fields.required("decision", &mut self.reader).and_then(|node| {
            let choices = [("allow", Choice::Allow), ("deny", Choice::Deny), ("escalate", Choice::Escalate)];
            self.reader.choice(node, "decision", &choices)
        });
        let reason = self.reason(&fields);
        let conditions = fields.optional("conditions");
        let conditions = conditions.map(|node| self.conditions(node, decision)).unwrap_or_default();
        let reviewers = self.reviewers(&fields, decision);
        let is_shadow = fields.optional("shadow").map_or(Some(false), |node| self.shadow(node, decision));
        Some(PolicyRule {
            name: name?,
            place,
            intent: intent?,
            agents,
            decision: decision?,
            reason,
            conditions,
            reviewers: reviewers?,
            is_shadow: is_shadow?,
        })
    }

    fn reviewers(&mut self, fields: &Fields<'_>, decision: Option<Choice>) -> Option<Vec<String>> {
        match (fields.optional("escalation"), decision) {
            (Some(node), Some(Choice::Escalate) | None) => self.escalation(node),
            (Some(node), _) => {
                let hint = "write `decision: escalate`, or remove `escalation`";
                self.reader.problem(node, "only an escalate rule has an escalation", Some(hint.into()));
                None
            }
            (None, _) => Some(Vec::new()),
        }
    }

    fn shadow(&mut self, node: &Node, decision: Option<Choice>) -> Option<bool> {
        let Value::Bool(is_shadow) = node.value else {
            let what = format!("shadow must be true or false, this is {}", node.value.kind());
            self.reader.problem(node, what, None);
            return None;
        };
        if is_shadow && decision == Some(Choice::Allow) {
            let hint = "leave the rule out: what no rule allows is denied, and the record says so";
            self.reader.problem(node, "an allow rule has no shadow", Some(hint.into()));
            return None;
        }
        Some(is_shadow)
    }

    fn escalation(&mut self, node: &Node) -> Option<Vec<String>> {
        let fields = self.reader.fields(node, "an escalation", &["type", "reviewers"])?;
        let kind = fields.required("type", &mut self.reader);
        let kind = kind.and_then(|node| self.reader.choice(node, "type", &[("single", ())]));
        let reviewers = fields.required("reviewers", &mut self.reader)?;
        let reviewers: Vec<String> = self
            .reader
            .list(reviewers, "reviewers")?
            .iter()
            .filter_map(|node| {
                let text = self.reader.text(node, "a reviewer")?;
                let is_role = text.strip_prefix("role:").is_some_and(|role| !role.is_empty());
                if !is_role {
                    let hint = Some(format!("write role:{text}"));
                    self.reader.problem(node, format!("reviewer {text:?} is not a role"), hint);
                }
                is_role.then(|| text.to_owned())
            })
            .collect();
        kind.map(|()| reviewers)
    }

    fn pattern(&mut self, node: &Node) -> Option<At<IntentPattern>> {
        let text = self.reader.text(node, "intent")?;
        match IntentPattern::parse(text) {
            Ok(pattern) => Some(self.at(node, pattern)),
            Err(error) => {
                let what = if text.contains('*') {
                    format!("intent {text:?}: a `*` stands alone or after the last dot")
                } else {
                    format!("intent {text:?}: {error}")
                };
                self.reader.problem(
                    node,
                    what,
                    text.contains('*').then(|| "write for example financial.refund.*".into()),
                );
                None
            }
        }
    }

    fn names<T>(
        &mut self,
        node: &Node,
        what: &str,
        parse: fn(&str) -> Result<T, crate::types::NameError>,
    ) -> Vec<At<T>> {
        let nodes = self.reader.list(node, what).unwrap_or_default();
        nodes
            .iter()
            .filter_map(|node| self.reader.name(node, what, parse).map(|name| self.at(node, name)))
            .collect()
    }

    fn rule_name(&mut self, fields: &Fields<'_>, place: &Place) -> Option<RuleName> {
        match fields.optional("name") {
            Some(node) => {
                let text = self.reader.text(node, "name")?;
                if text.is_empty()
                    || text.len() > crate::types::NAME_BYTES_MAX
                    || text.chars().any(char::is_control)
                {
                    let what = "a rule's name has 1 to 128 bytes and no control characters";
                    self.reader.problem(node, what, None);
                    return None;
                }
                Some(RuleName::new(text))
            }
            None if self.crowded.contains(&place.line) => Some(RuleName::new(&place.exact())),
            None => Some(RuleName::new(&place.short())),
        }
    }

    fn reason(&mut self, fields: &Fields<'_>) -> Option<Arc<str>> {
        /// It goes into every refusal that it explains.
        const REASON_BYTES_MAX: usize = 1024;
        let node = fields.optional("reason")?;
        let text = self.reader.text(node, "reason")?;
        if text.trim().is_empty() || text.len() > REASON_BYTES_MAX {
            self.reader.problem(node, format!("a reason has 1 to {REASON_BYTES_MAX} bytes"), None);
            return None;
        }
        Some(text.into())
    }

    fn place(&self, node: &Node) -> Place {
        Place { file: self.path.clone(), line: node.line, column: node.column }
    }

    fn at<T>(&self, node: &Node, value: T) -> At<T> {
        At { value, place: self.place(node) }
    }
}

/// The profile of an agent that lists none.
pub const DEFAULT_PROFILE: &str = "default";
