//! Labels, flow rules and inspection rules, as they stand in a policy file.

use std::sync::Arc;

use super::condition::flat;
use super::{At, Choice, Document, File, Place};
use crate::config::reader::Fields;
use crate::config::yaml::Node;
use crate::inspect::{Kind, Kinds};
use crate::policy::label::{LABELS, LABELS_MAX, Sink};
use crate::policy::rule::{Action, IntentPattern, RuleName};
use crate::policy::target::{Key, Pattern, is_protocol_method};
use crate::types::{AgentName, LabelName, ServerName};

/// The most hits that an inspection rule may wait for.
pub const MIN_HITS_MAX: u64 = 1_000_000;

const SINKS: [(&str, Sink); 2] = [("external", Sink::External), ("internal", Sink::Internal)];

/// What all files say of data: how it is labelled, where it may go, and what it must not hold.
#[derive(Debug, Default)]
pub(in crate::policy) struct Flow {
    /// One policy has at most one of each of these three.
    pub labels: Vec<At<Vec<At<LabelName>>>>,
    pub default_label: Vec<At<LabelName>>,
    pub default_sink: Vec<At<Sink>>,
    pub rules: Vec<FlowRule>,
    pub inspections: Vec<InspectRule>,
}

/// What a matcher says of its target.
#[derive(Debug, Clone, Default)]
pub(in crate::policy) struct Carries {
    /// Of what it answers.
    pub label: Option<At<LabelName>>,
    /// Of what it is told.
    pub sink: Option<Sink>,
}

/// Who has read that, must not send there.
#[derive(Debug)]
pub(in crate::policy) struct FlowRule {
    pub name: RuleName,
    pub place: Place,
    pub after: At<LabelName>,
    pub sink: Sink,
    /// `None`: all.
    pub agents: Option<Vec<At<AgentName>>>,
    /// Deny or escalate.
    pub decision: Choice,
    pub reason: Option<Arc<str>>,
    pub reviewers: Vec<String>,
    pub is_shadow: bool,
}

/// What becomes of answers that hold something.
#[derive(Debug)]
pub(in crate::policy) struct InspectRule {
    pub name: RuleName,
    pub place: Place,
    /// `None`: any.
    pub server: Option<At<ServerName>>,
    pub intent: Option<At<IntentPattern>>,
    pub agents: Option<Vec<At<AgentName>>>,
    pub detect: Kinds,
    pub action: Action,
    pub min_hits: u64,
    pub is_shadow: bool,
}

impl Flow {
    pub(in crate::policy) fn len(&self) -> usize {
        self.rules.len() + self.inspections.len()
    }

    /// Every rule's name and place.
    pub(in crate::policy) fn names(&self) -> impl Iterator<Item = (&RuleName, &Place)> {
        let rules = self.rules.iter().map(|rule| (&rule.name, &rule.place));
        rules.chain(self.inspections.iter().map(|rule| (&rule.name, &rule.place)))
    }
}

impl File<'_> {
    pub(super) fn flow(
        &mut self,
        fields: &Fields<'_>,
        [rules, inspections]: [&[Node]; 2],
        document: &mut Document,
    ) {
        let flow = &mut document.flow;
        if let Some(node) = fields.optional("labels") {
            let names = self.names(node, "labels", LabelName::parse);
            self.check_labels(node, &names);
            flow.labels.push(self.at(node, names));
        }
        if let Some(node) = fields.optional("default_label") {
            let name = self.reader.name(node, "default_label", LabelName::parse);
            flow.default_label.extend(name.map(|name| self.at(node, name)));
        }
        if let Some(node) = fields.optional("default_sink") {
            let sink = self.reader.choice(node, "default_sink", &SINKS);
            flow.default_sink.extend(sink.map(|sink| self.at(node, sink)));
        }
        for node in rules {
            flow.rules.extend(self.flow_rule(node));
        }
        for node in inspections {
            flow.inspections.extend(self.inspect_rule(node));
        }
    }

    /// Files that others have written speak of the four, so they are always there, and in their order.
    fn check_labels(&mut self, node: &Node, names: &[At<LabelName>]) {
        let own = || names.iter().map(|name| name.value.as_str());
        let known: Vec<_> = own().filter(|name| LABELS.contains(name)).collect();
        let twice =
            names.iter().enumerate().find(|(at, name)| own().take(*at).any(|n| n == name.value.as_str()));
        if let Some((_, name)) = twice {
            let what = format!("the label {} stands twice", name.value);
            self.reader.push(name.place.problem(what, Some("keep one of the two".into())));
        } else if known != LABELS {
            let what = format!("labels must have {} in this order", LABELS.join(", "));
            let hint = "put your own before, between or after them, the lowest first";
            self.reader.problem(node, what, Some(hint.into()));
        } else if names.len() > LABELS_MAX {
            self.reader.problem(node, format!("there are more than {LABELS_MAX} labels"), None);
        }
    }

    /// What a matcher of this kind says beside what it matches.
    pub(super) fn carries(&mut self, key: Option<&Key>, kind: &str, fields: &Fields<'_>) -> Option<Carries> {
        let mut carries = Carries::default();
        if let Some(node) = fields.optional("label") {
            if kind == "server_request" {
                let hint = "label what the server answers, or give this a `sink`: the client's answer goes to the server";
                self.reader.problem(node, "a server_request has no answer for the agent", Some(hint.into()));
                return None;
            }
            if let Some(Key::Method(Pattern::Exact(method))) = key
                && is_protocol_method(method)
            {
                let hint = "remove `label`, and label the tools, prompts and resources themselves";
                self.reader.problem(
                    node,
                    format!("{method} is the protocol's own, and carries nothing"),
                    Some(hint.into()),
                );
                return None;
            }
            let name = self.reader.name(node, "label", LabelName::parse)?;
            carries.label = Some(self.at(node, name));
        }
        if let Some(node) = fields.optional("sink") {
            carries.sink = Some(self.reader.choice(node, "sink", &SINKS)?);
        }
        Some(carries)
    }

    fn flow_rule(&mut self, node: &Node) -> Option<FlowRule> {
        let keys = ["name", "after", "sink", "agents", "decision", "reason", "escalation", "shadow"];
        let fields = self.reader.fields(node, "a flow rule", &keys)?;
        let place = self.place(node);
        let name = self.rule_name(&fields, &place);
        let after = fields.required("after", &mut self.reader).and_then(|node| {
            let name = self.reader.name(node, "after", LabelName::parse)?;
            Some(self.at(node, name))
        });
        let sink = fields.required("sink", &mut self.reader);
        let sink = sink.and_then(|node| self.reader.choice(node, "sink", &SINKS));
        let agents = fields.optional("agents").map(|node| self.names(node, "agents", AgentName::parse));
        let decision = fields.required("decision", &mut self.reader).and_then(|node| {
            let choices = [("deny", Choice::Deny), ("escalate", Choice::Escalate)];
            self.reader.choice(node, "decision", &choices)
        });
        let reason = self.reason(&fields);
        let reviewers = self.reviewers(&fields, decision);
        let is_shadow = fields.optional("shadow").map_or(Some(false), |node| self.shadow(node, decision));
        Some(FlowRule {
            name: name?,
            place,
            after: after?,
            sink: sink?,
            agents,
            decision: decision?,
            reason,
            reviewers: reviewers?,
            is_shadow: is_shadow?,
        })
    }

    fn inspect_rule(&mut self, node: &Node) -> Option<InspectRule> {
        let keys = ["name", "server", "intent", "agents", "detect", "action", "min_hits", "shadow"];
        let fields = self.reader.fields(node, "an inspection rule", &keys)?;
        let place = self.place(node);
        let name = self.rule_name(&fields, &place);
        let server = fields.optional("server").map(|node| {
            let name = self.reader.name(node, "server", ServerName::parse)?;
            Some(self.at(node, name))
        });
        let intent = fields.optional("intent").map(|node| self.pattern(node));
        let agents = fields.optional("agents").map(|node| self.names(node, "agents", AgentName::parse));
        let detect = fields.required("detect", &mut self.reader).and_then(|node| self.detect(node));
        let action = fields.required("action", &mut self.reader).and_then(|node| {
            let choices = [("count", Action::Count), ("mask", Action::Mask), ("refuse", Action::Refuse)];
            self.reader.choice(node, "action", &choices)
        });
        let min_hits = fields.optional("min_hits");
        let min_hits = min_hits.map_or(Some(1), |node| self.reader.count(node, "min_hits", MIN_HITS_MAX));
        let is_shadow = fields.optional("shadow").map_or(Some(false), |node| {
            let is_shadow = self.shadow(node, None)?;
            if is_shadow && action == Some(Action::Count) {
                let hint = "remove `shadow`: what is counted goes on as it is";
                self.reader.problem(node, "a rule that counts has no shadow", Some(hint.into()));
                return None;
            }
            Some(is_shadow)
        });
        Some(InspectRule {
            name: name?,
            place,
            server: flat(server)?,
            intent: flat(intent)?,
            agents,
            detect: detect?,
            action: action?,
            min_hits: min_hits?,
            is_shadow: is_shadow?,
        })
    }

    fn detect(&mut self, node: &Node) -> Option<Kinds> {
        let choices = Kind::ALL.map(|kind| (kind.as_str(), kind));
        let nodes = self.reader.list(node, "detect")?;
        let kinds: Vec<_> = nodes.iter().map(|node| self.reader.choice(node, "detect", &choices)).collect();
        kinds.into_iter().collect()
    }
}
