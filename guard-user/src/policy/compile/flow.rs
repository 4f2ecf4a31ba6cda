//! Flow rules and inspection rules against the labels and names that there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use super::Check;
use crate::config::problem::suggest;
use crate::inspect::Kinds;
use crate::policy::condition::{MarkAsked, MarkTest};
use crate::policy::decide::Inspected;
use crate::policy::file::{self, AskedMark, At, Choice, Clause, Document, MarkClause, Matcher};
use crate::policy::flow::{FlowRule, FlowSet, Inspection, Inspector};
use crate::policy::label::{Labels, Level, Sink};
use crate::policy::rule::Action;
use crate::policy::target::{Key, Pattern, is_protocol_method};
use crate::types::{AgentName, IntentName, LabelName, ServerName};

/// The labels of a policy, and what is labelled.
pub(super) struct Flows<'d> {
    pub labels: Arc<Labels>,
    /// Of a target that names none; `None`: it is not labelled.
    default_label: Option<Level>,
    default_sink: Sink,
    /// What is not labelled counts as the highest label, since rules are in force and nobody says what it is.
    is_guessed: bool,
    carried: BTreeMap<(&'d ServerName, &'d Key), Carried>,
    /// Those that deny first, then by name.
    rules: Vec<&'d file::FlowRule>,
    /// By name.
    inspections: Vec<&'d file::InspectRule>,
    /// Servers whose rules bind nobody.
    shadowed: BTreeSet<&'d ServerName>,
    /// Most targets have the same rules.
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    rules: HashMap<(bool, Vec<usize>), Arc<[FlowRule]>>,
    inspections: HashMap<(bool, Vec<usize>), Arc<Inspection>>,
}

/// What the matchers of a target say together: the highest label, and the widest sink.
#[derive(Debug, Clone, Copy, Default)]
struct Carried {
    label: Option<Level>,
    sink: Option<Sink>,
}

impl<'d> Flows<'d> {
    pub(super) fn of(document: &'d Document) -> Self {
        let labels = labels(document);
        let mut carried: BTreeMap<_, Carried> = BTreeMap::new();
        let matchers = || document.intents.iter().flat_map(|intent| &intent.matchers);
        for matcher in matchers() {
            let said = carried.entry((&matcher.server.value, &matcher.key)).or_default();
            let label = matcher.carries.label.as_ref();
            said.take(Carried {
                label: label.map(|label| labels.level(&label.value).unwrap_or(labels.top())),
                sink: matcher.carries.sink,
            });
        }
        let alone: Vec<_> = carried.iter().map(|(place, said)| (*place, *said)).collect();
        let is_wide = |key: &Key| matches!(key, Key::Resource(_) | Key::Method(_) | Key::ServerRequest(_));
        let wide: Vec<_> = alone.into_iter().filter(|((_, key), _)| is_wide(key)).collect();
        for ((server, key), said) in &mut carried {
            let of_server = wide.iter().filter(|((at, wider), _)| at == server && wider.covers(key));
            of_server.for_each(|(_, more)| said.take(*more));
        }
        let conditions = document.policies.iter().flat_map(|rule| &rule.conditions);
        let is_in_force = !document.flow.rules.is_empty()
            || conditions.into_iter().any(|clause| matches!(clause.value, Clause::Mark(_)));
        let default = document.flow.default_label.first().and_then(|label| labels.level(&label.value));
        let mut rules: Vec<_> = document.flow.rules.iter().collect();
        rules.sort_by(|a, b| {
            (a.decision != Choice::Deny, &a.name).cmp(&(b.decision != Choice::Deny, &b.name))
        });
        let mut inspections: Vec<_> = document.flow.inspections.iter().collect();
        inspections.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            is_guessed: is_in_force && default.is_none(),
            default_label: default.or(is_in_force.then(|| labels.top())),
            default_sink: document.flow.default_sink.first().map_or(Sink::External, |sink| sink.value),
            labels,
            carried,
            rules,
            inspections,
            shadowed: super::shadowed(document),
            made: Mutex::default(),
        }
    }

    /// The matchers of which nobody says what they answer, so that it counts as the highest label.
    pub(super) fn unlabelled(&self, document: &'d Document) -> Vec<&'d Matcher> {
        let matchers = document.intents.iter().flat_map(|intent| &intent.matchers);
        let is_labelled = |matcher: &&Matcher| {
            let said = self.carried.get(&(&matcher.server.value, &matcher.key));
            !carries(&matcher.key) || said.is_some_and(|said| said.label.is_some())
        };
        matchers.filter(|matcher| self.is_guessed && !is_labelled(matcher)).collect()
    }

    /// What is said of `agent`'s calls of a target that means `intents`.
    pub(super) fn set(
        &self,
        agent: &AgentName,
        (server, key): (&ServerName, &Key),
        intents: &[&IntentName],
    ) -> FlowSet {
        let Carried { label, sink } = self.carried.get(&(server, key)).copied().unwrap_or_default();
        let default = self.default_label.filter(|_| carries(key));
        let label = label.or(default).and_then(|level| self.labels.name(level)).cloned();
        let of_intent = |rule: &file::InspectRule| {
            rule.intent
                .as_ref()
                .is_none_or(|pattern| intents.iter().any(|intent| pattern.value.matches(intent.as_str())))
        };
        FlowSet {
            label,
            rules: self.about(agent, server, sink.unwrap_or(self.default_sink)),
            labels: Arc::clone(&self.labels),
            inspection: self.inspection(agent, server, of_intent),
        }
    }

    /// What is said of answers of `server` that are of no target.
    pub(super) fn of_server(&self, agent: &AgentName, server: &ServerName) -> Inspected {
        Inspected {
            general: self.inspection(agent, server, |rule| rule.intent.is_none()),
            whole: self.inspection(agent, server, |_| true),
        }
    }

    /// What is said of the messages of which no intent speaks: they go where the most open of the server's targets send.
    pub(super) fn widest(&self, agent: &AgentName, server: &ServerName) -> FlowSet {
        let here = self.carried.iter().filter(|((at, _), _)| *at == server);
        let sinks = here.map(|(_, said)| said.sink.unwrap_or(self.default_sink));
        FlowSet {
            label: None,
            rules: self.about(agent, server, sinks.max().unwrap_or(self.default_sink)),
            labels: Arc::clone(&self.labels),
            inspection: None,
        }
    }

    fn about(&self, agent: &AgentName, server: &ServerName, sink: Sink) -> Arc<[FlowRule]> {
        let is_shadowed = self.shadowed.contains(server);
        let is_for = |rule: &file::FlowRule| rule.sink == sink && names(rule.agents.as_deref(), agent);
        let at: Vec<usize> =
            self.rules.iter().enumerate().filter(|(_, rule)| is_for(rule)).map(|(at, _)| at).collect();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = at.iter().filter_map(|at| self.rules.get(*at)).map(|rule| FlowRule {
            name: rule.name.clone(),
            after: self.labels.level(&rule.after.value).unwrap_or(self.labels.top()),
            sink: rule.sink,
            denies: rule.decision == Choice::Deny,
            reason: rule.reason.clone(),
            reviewers: rule.reviewers.clone().into(),
            is_shadow: rule.is_shadow || is_shadowed,
        });
        let rules = rules.collect();
        made.rules.entry((is_shadowed, at)).or_insert(rules).clone()
    }

    fn inspection(
        &self,
        agent: &AgentName,
        server: &ServerName,
        is_for: impl Fn(&file::InspectRule) -> bool,
    ) -> Option<Arc<Inspection>> {
        let is_for = |rule: &file::InspectRule| {
            is_for(rule)
                && rule.server.as_ref().is_none_or(|only| only.value == *server)
                && names(rule.agents.as_deref(), agent)
        };
        let at: Vec<usize> =
            self.inspections.iter().enumerate().filter(|(_, rule)| is_for(rule)).map(|(at, _)| at).collect();
        if at.is_empty() {
            return None;
        }
        let is_shadowed = self.shadowed.contains(server);
        let rules: Vec<_> = at
            .iter()
            .filter_map(|at| self.inspections.get(*at))
            .map(|rule| Inspector {
                rule: rule.name.clone(),
                kinds: rule.detect,
                action: rule.action,
                min_hits: rule.min_hits,
                // One that counts does nothing else.
                is_shadow: rule.is_shadow || (is_shadowed && rule.action != Action::Count),
            })
            .collect();
        let kinds = rules.iter().fold(Kinds::default(), |all, rule| all.and(rule.kinds));
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        Some(
            made.inspections
                .entry((is_shadowed, at))
                .or_insert_with(|| Arc::new(Inspection { rules, kinds }))
                .clone(),
        )
    }

    /// A condition on the mark.
    pub(super) fn test(flows: Option<&Self>, clause: &MarkClause) -> MarkTest {
        let labels = flows.map_or_else(Arc::default, |flows| Arc::clone(&flows.labels));
        let levels = || clause.names.iter().map(|name| labels.level(&name.value).unwrap_or(labels.top()));
        let first = levels().next().unwrap_or(labels.top());
        let (asked, is_list) = match clause.asked {
            AskedMark::Max => (MarkAsked::AtMost(first), false),
            AskedMark::Above => (MarkAsked::Above(first), false),
            AskedMark::In => (MarkAsked::OneOf(levels().collect()), true),
            AskedMark::NotIn => (MarkAsked::NoneOf(levels().collect()), true),
        };
        let names: Vec<_> = clause.names.iter().map(|name| name.value.as_str()).collect();
        let names = names.join(", ");
        let names = if is_list { format!("[{names}]") } else { names };
        let shown = format!("{}: {names}", clause.asked.key()).into();
        MarkTest { labels, asked, shown }
    }
}

impl Carried {
    fn take(&mut self, more: Self) {
        self.label = self.label.max(more.label);
        self.sink = self.sink.max(more.sink);
    }
}

/// Whether its answers carry anything. A server's request has none for the agent, and the protocol carries nothing.
fn carries(key: &Key) -> bool {
    match key {
        Key::ServerRequest(_) => false,
        Key::Method(Pattern::Exact(method)) => !is_protocol_method(method),
        _ => true,
    }
}

fn names(agents: Option<&[At<AgentName>]>, agent: &AgentName) -> bool {
    agents.is_none_or(|agents| agents.iter().any(|only| only.value == *agent))
}

/// Those that the policy names, else the four.
fn labels(document: &Document) -> Arc<Labels> {
    let own = document.flow.labels.first();
    let own = own.and_then(|at| Labels::new(at.value.iter().map(|name| name.value.clone()).collect()));
    Arc::new(own.unwrap_or_default())
}

impl<'d> Check<'d> {
    pub(super) fn flow(&mut self, document: &'d Document) {
        let flow = &document.flow;
        self.once("labels", flow.labels.iter().map(|at| &at.place));
        self.once("default_label", flow.default_label.iter().map(|at| &at.place));
        self.once("default_sink", flow.default_sink.iter().map(|at| &at.place));
        let labels = labels(document);
        let matchers = document.intents.iter().flat_map(|intent| &intent.matchers);
        let carried = matchers.filter_map(|matcher| matcher.carries.label.as_ref());
        let asked = document.policies.iter().flat_map(|rule| &rule.conditions).filter_map(|clause| {
            if let Clause::Mark(mark) = &clause.value { Some(&mark.names) } else { None }
        });
        let after = flow.rules.iter().map(|rule| &rule.after);
        for label in flow.default_label.iter().chain(carried).chain(asked.flatten()).chain(after) {
            self.label(label, &labels);
        }
        flow.rules.iter().flat_map(|rule| rule.agents.iter().flatten()).for_each(|agent| self.agent(agent));
        for rule in &flow.inspections {
            rule.agents.iter().flatten().for_each(|agent| self.agent(agent));
            rule.server.iter().for_each(|server| self.server(server));
            if let Some(intent) = &rule.intent {
                self.intent(intent);
            }
        }
    }

    fn label(&mut self, label: &At<LabelName>, labels: &Labels) {
        if labels.level(&label.value).is_none() {
            let hint = suggest(label.value.as_str(), labels.names());
            self.problems.push(label.place.problem(format!("there is no label {:?}", label.value), hint));
        }
    }

    /// Files have no order, so none of two could win.
    fn once<'p>(&mut self, what: &str, mut places: impl Iterator<Item = &'p file::Place>) {
        let Some(first) = places.next() else { return };
        for place in places {
            let hint = format!("see {}; one file says it for all", first.short());
            self.problems.push(place.problem(format!("{what} is said twice"), Some(hint)));
        }
    }
}
