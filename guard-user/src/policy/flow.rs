//! Where data may go, and what it must not hold: flow rules and inspection rules, compiled for one agent and one target.

use std::sync::Arc;

use super::condition::Verdict;
use super::decide::Conditions;
use super::decision::{Decision, Deny, DenyCode, Hold};
use super::label::{Labels, Level, Sink};
use super::rule::{Action, RuleName};
use super::target::TASK_METHODS;
use super::{Policy, Question};
use crate::inspect::Kinds;
use crate::rpc::Target;
use crate::types::{AgentName, IntentName, LabelName, ServerName};

/// What flow rules say of one agent's calls of one target.
#[derive(Debug, Clone)]
pub(super) struct FlowSet {
    /// What its answers carry; `None`: the policy does not label it.
    pub label: Option<LabelName>,
    /// Those about where its arguments go: those that deny first, then by name.
    pub rules: Arc<[FlowRule]>,
    pub labels: Arc<Labels>,
    pub inspection: Option<Arc<Inspection>>,
}

#[derive(Debug)]
pub(super) struct FlowRule {
    pub name: RuleName,
    pub after: Level,
    pub sink: Sink,
    /// Or a person decides.
    pub denies: bool,
    pub reason: Option<Arc<str>>,
    pub reviewers: Arc<[String]>,
    pub is_shadow: bool,
}

/// The rules that answers of one target go through. Never empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Inspection {
    /// By name.
    pub rules: Vec<Inspector>,
    /// All that they look for.
    pub kinds: Kinds,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspector {
    pub rule: RuleName,
    pub kinds: Kinds,
    pub action: Action,
    pub min_hits: u64,
    /// It changes nothing; the closing record tells what it would have done.
    pub is_shadow: bool,
}

impl FlowSet {
    /// What is left of `decision`, which the agent's own rules have made: deny wins. Without `may_hold` nobody can be asked, and what needs
    /// an approval is denied.
    pub(super) fn apply(
        &self,
        decision: Decision,
        question: &Question<'_>,
        intents: &Arc<[IntentName]>,
        may_hold: bool,
    ) -> Decision {
        if self.rules.is_empty() {
            return decision;
        }
        let Some(read) = question.around.read else {
            let binds = |rule: &&FlowRule| !rule.is_shadow;
            return match self.rules.iter().find(binds) {
                Some(rule) => Self::deny(decision, rule, DenyCode::ConditionFailed, intents, unknown()),
                None => self.noted(decision, |_| true),
            };
        };
        let mark = self.labels.mark(read);
        let is_met = |rule: &FlowRule| mark >= rule.after;
        let decision = self.noted(decision, is_met);
        let Some(rule) = self.rules.iter().find(|rule| !rule.is_shadow && is_met(rule)) else {
            return decision;
        };
        let reason = rule.reason(&self.labels, mark);
        let denied = |decision| Self::deny(decision, rule, DenyCode::Flow, intents, reason.to_string());
        if rule.denies || !may_hold {
            return denied(decision);
        }
        match decision {
            Decision::Allow(allow) => Decision::Hold(Hold {
                rule: rule.name.clone(),
                intent: match allow.intents.first().or(intents.first()) {
                    Some(intent) => intent.clone(),
                    None => return denied(Decision::Allow(allow)),
                },
                intents: allow.intents,
                reason: reason.clone(),
                reviewers: rule.reviewers.clone(),
                velocity: allow.velocity,
                would_deny: allow.would_deny,
                label: allow.label,
            }),
            decision => decision,
        }
    }

    /// The most telling denial is told.
    fn deny(
        before: Decision,
        rule: &FlowRule,
        code: DenyCode,
        intents: &Arc<[IntentName]>,
        reason: String,
    ) -> Decision {
        let meant = match before {
            Decision::Deny(deny) if deny.code <= code => return Decision::Deny(deny),
            Decision::Deny(deny) => deny.intents,
            Decision::Allow(allow) => allow.intents,
            Decision::Hold(hold) => hold.intents,
        };
        let intents = if meant.is_empty() { intents } else { &meant };
        Decision::Deny(Deny {
            code,
            rule: Some(rule.name.clone()),
            intent: intents.first().cloned(),
            intents: intents.clone(),
            reason,
            is_hidden: false,
        })
    }

    /// Names the rules in shadow that would bind.
    fn noted(&self, mut decision: Decision, is_met: impl Fn(&FlowRule) -> bool) -> Decision {
        let would =
            self.rules.iter().filter(|rule| rule.is_shadow && is_met(rule)).map(|rule| rule.name.clone());
        let would_deny = match &mut decision {
            Decision::Allow(allow) => &mut allow.would_deny,
            Decision::Hold(hold) => &mut hold.would_deny,
            Decision::Deny(_) => return decision,
        };
        would_deny.extend(would);
        would_deny.sort_unstable();
        would_deny.dedup();
        decision
    }

    /// What the rule says of somebody who has read this.
    pub(super) fn judge(&self, rule: &FlowRule, read: Option<&[LabelName]>) -> Verdict {
        let Some(read) = read else { return Verdict::Unknown(unknown()) };
        let mark = self.labels.mark(read);
        if mark >= rule.after {
            return Verdict::Met;
        }
        let name = |level| self.labels.name(level).map_or("", LabelName::as_str);
        Verdict::NotMet(format!("the agent has read nothing above {}", name(mark)))
    }
}

fn unknown() -> String {
    "condition cannot be judged: what the agent has read is not known for this call".to_owned()
}

impl FlowRule {
    fn reason(&self, labels: &Labels, mark: Level) -> Arc<str> {
        self.reason.clone().unwrap_or_else(|| {
            let name = |level| labels.name(level).map_or("", LabelName::as_str);
            let (mark, sink) = (name(mark), self.sink.as_str());
            let words = if self.denies { "must not send" } else { "needs an approval to send" };
            format!("this agent has read what is {mark}, and {words} anything to an {sink} sink").into()
        })
    }
}

impl Policy {
    /// What the answers to such a request go through; `about` is `None` for answers of which nobody knows what they answer: then
    /// all rules of the server speak.
    pub fn inspection(
        &self,
        agent: &AgentName,
        server: &ServerName,
        about: Option<(Target<'_>, &str)>,
    ) -> Option<&Arc<Inspection>> {
        let surface = self.agents.get(agent)?.servers.get(server)?;
        let Some((target, method)) = about else { return surface.inspected.whole.as_ref() };
        match surface.targets.find(target, method) {
            Some(set) => set.flow.inspection.as_ref(),
            // It was taken from the agent while its answer was under way.
            None if target.is_thing() => surface.inspected.whole.as_ref(),
            None => surface.inspected.general.as_ref(),
        }
    }

    /// Whether there are any, for whomever.
    pub fn has_flow_rules(&self) -> bool {
        self.has_flow_rules
    }

    /// What the policy calls the highest of `read`.
    pub fn mark<'p>(&'p self, read: &[LabelName]) -> Option<&'p LabelName> {
        self.labels.name(self.labels.mark(read))
    }

    /// The label of this name, or those that there are.
    pub fn label(&self, name: &str) -> Result<LabelName, Vec<&str>> {
        let known = LabelName::parse(name).ok().filter(|name| self.labels.level(name).is_some());
        known.ok_or_else(|| self.labels.names().collect())
    }
}

/// Where flow rules speak: of a call whose arguments are known, and of what says more of a task than its id.
pub(super) fn is_judged(question: &Question<'_>, conditions: Conditions<'_>) -> bool {
    let is_of_task = TASK_METHODS.contains(&question.method);
    matches!(conditions, Conditions::Judged(..)) || (is_of_task && !question.around.is_bare)
}
