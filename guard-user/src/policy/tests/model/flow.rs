//! Labels, sinks and flow rules of random policies.

use std::fmt::Write;

use proptest::prelude::*;

use super::{AGENT_NAMES, Answer, Call, Called, METHODS, Matcher, Model, RESOURCES};
use crate::policy::DenyCode;
use crate::types::LabelName;

/// One of the policy's own among the four; the last one is of no policy.
pub(super) const LABELS: [&str; 6] =
    ["public", "internal", "partner", "confidential", "restricted", "of-another-policy"];
const TOP: usize = 4;

#[derive(Debug, Clone)]
pub(super) struct Flow {
    /// By the matcher's server, kind and number.
    carries: Vec<Carries>,
    default_label: Option<usize>,
    /// Whether what names no sink is external.
    default_external: Option<bool>,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Default)]
struct Carries {
    label: Option<usize>,
    external: Option<bool>,
}

#[derive(Debug, Clone)]
struct Rule {
    after: usize,
    external: bool,
    agents: Vec<usize>,
    denies: bool,
    shadow: bool,
}

pub(super) fn flow() -> impl Strategy<Value = Flow> {
    let carries = (proptest::option::of(0..=TOP), proptest::option::of(any::<bool>()))
        .prop_map(|(label, external)| Carries { label, external });
    let agents = proptest::sample::subsequence(vec![0, 1, 2], 0..=3);
    let rule = (0..=TOP, any::<bool>(), agents, any::<bool>(), 0..4_u8).prop_map(
        |(after, external, agents, denies, shadow)| Rule {
            after,
            external,
            agents,
            denies,
            shadow: shadow == 0,
        },
    );
    (
        proptest::collection::vec(carries, 20),
        proptest::option::of(0..=TOP),
        proptest::option::of(any::<bool>()),
        proptest::collection::vec(rule, 0..3),
    )
        .prop_map(|(carries, default_label, default_external, rules)| Flow {
            carries,
            default_label,
            default_external,
            rules,
        })
}

pub(super) fn read(call: &Call) -> Vec<LabelName> {
    call.read.iter().map(|label| LabelName::parse(LABELS[*label]).unwrap()).collect()
}

impl Flow {
    /// Each place carries the same in all intents; methods carry nothing of their own.
    fn of(&self, matcher: &Matcher) -> Carries {
        match matcher.place() {
            (server, 0, tool) => self.carries[server * 10 + tool].clone(),
            (server, 1, resource) => self.carries[server * 10 + 4 + resource].clone(),
            _ => Carries::default(),
        }
    }

    pub(super) fn yaml_of(&self, matcher: &Matcher) -> String {
        let Carries { label, external } = self.of(matcher);
        let label = label.map_or(String::new(), |label| format!(", label: {}", LABELS[label]));
        label + &external.map_or(String::new(), |external| format!(", sink: {}", sink(external)))
    }

    pub(super) fn yaml(&self) -> String {
        let mut text = format!("labels: [{}]\n", LABELS[..=TOP].join(", "));
        if let Some(label) = self.default_label {
            writeln!(text, "default_label: {}", LABELS[label]).unwrap();
        }
        if let Some(external) = self.default_external {
            writeln!(text, "default_sink: {}", sink(external)).unwrap();
        }
        if !self.rules.is_empty() {
            text += "flow_rules:\n";
        }
        for (number, rule) in self.rules.iter().enumerate() {
            let agents: Vec<_> = rule.agents.iter().map(|agent| AGENT_NAMES[*agent]).collect();
            let agents =
                if agents.is_empty() { String::new() } else { format!(", agents: [{}]", agents.join(", ")) };
            let decision = if rule.denies { "deny" } else { "escalate" };
            let (after, sink, shadow) = (LABELS[rule.after], sink(rule.external), rule.shadow);
            writeln!(
                text,
                "  - {{name: flow-{number}, after: {after}, sink: {sink}{agents}, decision: {decision}, shadow: {shadow}}}"
            )
            .unwrap();
        }
        text
    }

    /// Those that apply to the call, with their numbers.
    fn met<'f>(&'f self, model: &Model, call: &Call) -> Vec<(usize, &'f Rule)> {
        let covering: Vec<_> = model.intents.iter().flatten().filter(|m| m.covers(call)).collect();
        let said: Vec<bool> = covering.iter().filter_map(|matcher| self.of(matcher).external).collect();
        let external =
            if said.is_empty() { self.default_external.unwrap_or(true) } else { said.contains(&true) };
        self.met_at(external, call)
    }

    /// Those about a message of which no intent speaks: it goes where the most open matcher of its server does.
    fn met_of_protocol<'f>(&'f self, model: &Model, call: &Call) -> Vec<(usize, &'f Rule)> {
        let default = self.default_external.unwrap_or(true);
        let matchers: Vec<_> =
            model.intents.iter().flatten().filter(|m| m.place().0 == call.server).collect();
        let is_external = |matcher: &&&Matcher| {
            let covering = matchers.iter().filter(|wider| covers(wider, matcher));
            let said: Vec<bool> = covering.filter_map(|wider| self.of(wider).external).collect();
            if said.is_empty() { default } else { said.contains(&true) }
        };
        let external = if matchers.is_empty() { default } else { matchers.iter().any(|m| is_external(&m)) };
        self.met_at(external, call)
    }

    fn met_at(&self, external: bool, call: &Call) -> Vec<(usize, &Rule)> {
        let mark = call.read.unwrap_or(0).min(TOP);
        let is_met = |rule: &Rule| {
            rule.external == external
                && mark >= rule.after
                && (rule.agents.is_empty() || rule.agents.contains(&call.agent))
        };
        self.rules.iter().enumerate().filter(|(_, rule)| is_met(rule)).collect()
    }

    /// Nobody can approve it.
    pub(super) fn worse_of_protocol(&self, model: &Model, call: &Call) -> Answer {
        let is_denied = self.met_of_protocol(model, call).iter().any(|(_, rule)| !rule.shadow);
        if is_denied { Answer::Deny(DenyCode::Flow, false) } else { Answer::Allow(0) }
    }

    pub(super) fn would_deny_of_protocol(&self, model: &Model, call: &Call) -> Vec<String> {
        let met = self.met_of_protocol(model, call).into_iter();
        met.filter(|(_, rule)| rule.shadow).map(|(number, _)| format!("flow-{number}")).collect()
    }

    pub(super) fn shadow(&mut self) {
        self.rules.iter_mut().for_each(|rule| rule.shadow = true);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn worse(&self, model: &Model, call: &Call, answer: Answer) -> Answer {
        if is_of_protocol(call) {
            return self.worse_of_named_protocol(model, call, answer);
        }
        let met = self.met(model, call);
        if met.iter().any(|(_, rule)| rule.denies && !rule.shadow) {
            return answer.min(Answer::Deny(DenyCode::Flow, false));
        }
        match answer {
            Answer::Allow(_) if met.iter().any(|(_, rule)| !rule.shadow) => Answer::Hold(0),
            answer => answer,
        }
    }

    /// Of a message of the protocol's own that intents name. Nobody can approve it.
    fn worse_of_named_protocol(&self, model: &Model, call: &Call, answer: Answer) -> Answer {
        let is_denied = !super::is_bare(call) && self.met(model, call).iter().any(|(_, rule)| !rule.shadow);
        match answer {
            Answer::Hold(_) => Answer::Deny(DenyCode::DeniedByRule, false),
            answer if is_denied => answer.min(Answer::Deny(DenyCode::Flow, false)),
            answer => answer,
        }
    }

    pub(super) fn would_deny(&self, model: &Model, call: &Call) -> Vec<String> {
        if is_of_protocol(call) && super::is_bare(call) {
            return Vec::new();
        }
        let met = self.met(model, call).into_iter();
        met.filter(|(_, rule)| rule.shadow).map(|(number, _)| format!("flow-{number}")).collect()
    }

    /// What an answer to the call carries.
    pub(super) fn label(&self, model: &Model, call: &Call) -> Option<&'static str> {
        if is_of_protocol(call) {
            return None;
        }
        let covering = model.intents.iter().flatten().filter(|m| m.covers(call));
        let said = covering.filter_map(|matcher| self.of(matcher).label).max();
        let default = self.default_label.or((!self.rules.is_empty()).then_some(TOP));
        said.or(default).map(|label| LABELS[label])
    }
}

pub(super) fn is_of_protocol(call: &Call) -> bool {
    matches!(call.target, Called::Method(method) if METHODS[method] != "skills/get")
}

/// Whether whatever one names, the other does.
fn covers(wider: &Matcher, matcher: &Matcher) -> bool {
    let ((server, kind, at), (of_server, of_kind, of)) = (wider.place(), matcher.place());
    let is_prefix = || {
        let prefix = RESOURCES[at].strip_suffix('*');
        kind == 1 && prefix.is_some_and(|prefix| RESOURCES[of].trim_end_matches('*').starts_with(prefix))
    };
    (server, kind) == (of_server, of_kind) && (at == of || is_prefix())
}

fn sink(external: bool) -> &'static str {
    if external { "external" } else { "internal" }
}
