//! The decision itself: pure, and of the same cost for ten rules and ten thousand.

use std::collections::HashMap;
use std::sync::Arc;

use super::condition::{Condition, Verdict};
use super::decision::{Allow, Decision, Deny, DenyCode, Hold};
use super::fact::Judging;
use super::flow::{self, FlowSet, Inspection};
use super::meaning::{Counting, Means, Meant, counted, read};
use super::profile::{Admitted, Narrowing, counted_in, not_admitted};
use super::rule::{Meter, RuleName};
use super::target::{NEEDED_METHODS, Targets, is_of_protocol};
use super::{Circumstances, Policy, Question};
use crate::rpc::list::Kind;
use crate::rpc::{Json, Target};
use crate::types::{AgentName, IntentName, ProfileName, ServerName};

/// What one agent may do on its servers.
#[derive(Debug)]
pub(super) struct AgentRules {
    pub servers: HashMap<ServerName, Surface>,
}

/// What one agent may do on one server.
#[derive(Debug)]
pub(super) struct Surface {
    /// Some rule opens something here: the protocol's own methods are open.
    pub is_granted: bool,
    /// The profiles in which some of that is left.
    pub admitted: Admitted,
    /// Every target with a rule for this agent.
    pub targets: Targets<RuleSet>,
    pub inspected: Inspected,
    /// Where the most open of its server's targets send.
    pub flow: FlowSet,
}

/// What answers go through that are of no target with rules.
#[derive(Debug)]
pub(super) struct Inspected {
    /// Answers to the protocol's own methods.
    pub general: Option<Arc<Inspection>>,
    /// Answers of which nobody knows what they answer.
    pub whole: Option<Arc<Inspection>>,
}

/// Everything that the policy says about one agent and one target.
#[derive(Debug)]
pub(super) struct RuleSet {
    /// All intents of the target, sorted.
    pub intents: Arc<[IntentName]>,
    /// One entry per intent, in the same order.
    pub rules: Vec<IntentRules>,
    pub velocity: Arc<[Meter]>,
    /// For each of these, what makes it count.
    pub counting: Vec<Counting>,
    /// For each intent, when a call means it.
    pub meant: Arc<[Meant]>,
    /// The profiles that admit it, or some of it.
    pub admitted: Admitted,
    pub flow: FlowSet,
}

/// The rules for one agent and one intent, with conditions bound to one target's arguments.
#[derive(Debug)]
pub(super) struct IntentRules {
    pub intent: IntentName,
    /// Those with a reason first.
    pub deny: Vec<DenyRule>,
    pub hold: Vec<HoldRule>,
    pub allow: Vec<AllowRule>,
    pub shadow: Vec<ShadowRule>,
}

#[derive(Debug)]
pub(super) struct DenyRule {
    pub name: RuleName,
    pub reason: Option<Arc<str>>,
    pub conditions: Vec<Condition>,
}

#[derive(Debug)]
pub(super) struct HoldRule {
    pub name: RuleName,
    pub reason: Option<Arc<str>>,
    pub reviewers: Arc<[String]>,
    pub conditions: Vec<Condition>,
}

#[derive(Debug)]
pub(super) struct AllowRule {
    pub name: RuleName,
    pub conditions: Vec<Condition>,
}

/// A rule that restricts nothing, and tells what it would.
#[derive(Debug)]
pub(super) struct ShadowRule {
    pub name: RuleName,
    pub conditions: Vec<Condition>,
}

/// How conditions are taken.
#[derive(Clone, Copy)]
pub(super) enum Conditions<'a> {
    /// Judged by a call's arguments, and by when and from where it comes.
    Judged(Option<&'a Json>, Circumstances<'a>),
    /// Taken as they suit the agent.
    Assumed,
    /// The same for lists, tables, tasks and what is open: an escalate rule with conditions opens nothing.
    Shown,
}

impl Policy {
    /// Whether the agent may do what is asked. Deny wins over escalate, escalate over allow; what no rule allows
    /// is denied; where a target has several intents, each must be allowed.
    pub fn decide(&self, question: &Question<'_>) -> Decision {
        self.judge(question, Conditions::Judged(question.arguments, question.around))
    }

    /// The same with every condition taken as met, on a deny rule as not met.
    pub fn decide_assuming_conditions(&self, question: &Question<'_>) -> Decision {
        self.judge(question, Conditions::Assumed)
    }

    /// The same for lists, tables, tasks and what is open: an escalate rule with conditions opens nothing.
    pub fn decide_as_shown(&self, question: &Question<'_>) -> Decision {
        self.judge(question, Conditions::Shown)
    }

    /// What the agent's rules say, and then what the profile leaves of that.
    fn judge(&self, question: &Question<'_>, conditions: Conditions<'_>) -> Decision {
        let Some(agent) = self.agents.get(question.agent) else {
            let reason = format!("the policy does not know the agent {}", question.agent);
            return deny(DenyCode::UnknownAgent, reason);
        };
        let narrowing = self.profiles.narrowing(question.profile);
        let Some(surface) = agent.servers.get(question.server) else { return not_granted(question) };
        let is_needed = question.target == Target::Method && NEEDED_METHODS.contains(&question.method);
        let rules = surface.targets.find(question.target, question.method);
        if let Some(rules) = rules.filter(|_| !(surface.is_granted && is_needed)) {
            let mut decision = rules.decide(question.agent, conditions, narrowing);
            if is_of_protocol(question) {
                decision = surface.flows(decision.of_protocol(), question, conditions);
            } else if flow::is_judged(question, conditions) {
                let may_hold = matches!(conditions, Conditions::Judged(..));
                decision = rules.flow.apply(decision, question, &rules.intents, may_hold);
            }
            let intents = match &decision {
                Decision::Deny(_) => return decision,
                Decision::Allow(allow) => &allow.intents,
                Decision::Hold(hold) => &hold.intents,
            };
            // What it may mean besides was not asked about.
            let is_judged = matches!(conditions, Conditions::Judged(..));
            let is_meant = || intents.iter().all(|intent| !is_judged || narrowing.admits_intent(intent));
            if !narrowing.admits(rules, question) || !is_meant() {
                return not_admitted(question, intents, None);
            }
            let too_risky = narrowing.too_risky(question.around.risk).filter(|_| is_judged);
            return match too_risky {
                Some(why) => not_admitted(question, intents, Some(why)),
                None => counted_in(decision, question.profile),
            };
        }
        if !surface.is_granted {
            return not_granted(question);
        }
        if !is_needed && !self.is_open(question) {
            return self.unruled(question, conditions);
        }
        let decision = surface.flows(self.protocol.clone(), question, conditions);
        let is_admitted = matches!(decision, Decision::Deny(_)) || narrowing.may_admit(&surface.admitted);
        if is_admitted { decision } else { not_admitted(question, &[], None) }
    }

    /// The protocol's own methods, and what a server asks its client, need no rule until an intent names them.
    fn is_open(&self, question: &Question<'_>) -> bool {
        let is_protocol = matches!(question.target, Target::ServerRequest(_)) || is_of_protocol(question);
        let targets = self.intents.get(question.server);
        let named = targets.and_then(|targets| targets.find(question.target, question.method));
        is_protocol && named.is_none()
    }

    /// Whether a list shows `target` to the agent: rules open it, so that some call of it could be allowed or held.
    pub fn may_see(
        &self,
        agent: &AgentName,
        profile: Option<&ProfileName>,
        server: &ServerName,
        target: Target<'_>,
    ) -> bool {
        let around = Circumstances::default();
        let question = Question { agent, profile, server, method: "", target, arguments: None, around };
        !matches!(self.decide_as_shown(&question), Decision::Deny(_))
    }

    /// The same of anything of a kind.
    pub fn may_see_any(
        &self,
        agent: &AgentName,
        profile: Option<&ProfileName>,
        server: &ServerName,
        kind: Kind,
    ) -> bool {
        let surface = self.agents.get(agent).and_then(|agent| agent.servers.get(server));
        let narrowing = self.profiles.narrowing(profile);
        let is_seen = |rules: &RuleSet| {
            narrowing.may_admit(&rules.admitted)
                && !matches!(rules.decide(agent, Conditions::Shown, narrowing), Decision::Deny(_))
        };
        surface.is_some_and(|surface| surface.targets.of_kind(kind).any(is_seen))
    }

    /// Whether the agent has any grant on the server. Needed for what is no request of its own: a response to the
    /// server's request, the event stream, the end of a session.
    pub fn may_connect(&self, agent: &AgentName, profile: Option<&ProfileName>, server: &ServerName) -> bool {
        let surface = self.agents.get(agent).and_then(|agent| agent.servers.get(server));
        let narrowing = self.profiles.narrowing(profile);
        surface.is_some_and(|surface| surface.is_granted && narrowing.may_admit(&surface.admitted))
    }

    /// No rule connects the agent with the target.
    fn unruled(&self, question: &Question<'_>, conditions: Conditions<'_>) -> Decision {
        let targets = self.intents.get(question.server);
        if let Some(meant) = targets.and_then(|targets| targets.find(question.target, question.method)) {
            let is_meant = |one: &&Meant| !matches!(one.by(conditions), Means::No(_));
            let intents: Arc<[IntentName]> =
                meant.iter().filter(is_meant).map(|one| one.intent.clone()).collect();
            return Decision::Deny(Deny {
                code: DenyCode::DefaultDeny,
                rule: None,
                intent: intents.first().cloned(),
                reason: default_reason(question.agent, intents.first()),
                intents,
                is_hidden: true,
            });
        }
        let what = match question.target {
            Target::Tool(_) => "tool",
            Target::Resource(_) => "resource",
            Target::Prompt(_) => "prompt",
            Target::Task(_) => "task",
            Target::ServerRequest(_) => "server request",
            Target::Method | Target::Unnamed => "method",
        };
        let reason = format!("no intent of the policy names this {what}");
        Decision::Deny(Deny { is_hidden: true, ..denied(DenyCode::NoIntent, reason) })
    }
}

impl RuleSet {
    fn decide(&self, agent: &AgentName, conditions: Conditions<'_>, narrowing: Narrowing<'_>) -> Decision {
        let means = read(&self.meant, conditions);
        let (intents, velocity) = self.meant_by(means.as_deref());
        let mut held: Option<(&IntentRules, &HoldRule)> = None;
        let mut allowed: Option<&RuleName> = None;
        let mut denied: Option<Deny> = None;
        // What some call means and no such call may.
        let mut left_out: Option<Judged<'_>> = None;
        let judged = self.rules.iter().enumerate().filter_map(|(index, rules)| {
            let told = match means.as_ref().and_then(|means| means.get(index)) {
                None | Some(Means::Yes) => rules.judge(agent, conditions),
                Some(Means::No(_)) => return None,
                Some(Means::Unclear(why)) => not_told(why),
                Some(Means::Perhaps) => match rules.judge(agent, conditions) {
                    told @ Judged::Deny(..) => {
                        left_out = Some(told);
                        return None;
                    }
                    told if narrowing.admits_intent(&rules.intent) => told,
                    _ => return None,
                },
            };
            Some((rules, told))
        });
        for (rules, told) in judged {
            match told {
                Judged::Allow(rule) => allowed = allowed.or(Some(rule)),
                Judged::Hold(rule) => held = held.or(Some((rules, rule))),
                Judged::Deny(code, rule, reason) => {
                    // The most telling one is reported: a rule before a condition before the default.
                    if denied.as_ref().is_none_or(|before| code < before.code) {
                        denied = Some(Deny {
                            code,
                            rule,
                            intent: Some(rules.intent.clone()),
                            intents: intents.clone(),
                            reason,
                            is_hidden: false,
                        });
                    }
                }
            }
        }
        if let Some(denied) = denied {
            return Decision::Deny(denied);
        }
        let would_deny = self.would_deny(conditions, means.as_deref());
        if let Some((rules, rule)) = held {
            let reason = rule.reason.clone().unwrap_or_else(|| {
                format!("{} needs the approval of {}", rules.intent, reviewers(&rule.reviewers)).into()
            });
            return Decision::Hold(Hold {
                rule: rule.name.clone(),
                intent: rules.intent.clone(),
                intents,
                reason,
                reviewers: rule.reviewers.clone(),
                velocity,
                would_deny,
                label: self.flow.label.clone(),
            });
        }
        match allowed {
            Some(rule) => {
                let label = self.flow.label.clone();
                Decision::Allow(Allow { rule: rule.clone(), intents, velocity, would_deny, label })
            }
            None => self.unmeant(agent, left_out, means.as_deref()),
        }
    }

    /// The intents and the meters of a call that means this.
    fn meant_by(&self, means: Option<&[Means]>) -> (Arc<[IntentName]>, Arc<[Meter]>) {
        let Some(means) = means.filter(|means| means.iter().any(|one| matches!(one, Means::No(_)))) else {
            return (self.intents.clone(), self.velocity.clone());
        };
        let is_meant = |(_, means): &(_, &Means)| !matches!(means, Means::No(_));
        let intents = self.intents.iter().zip(means).filter(is_meant).map(|(intent, _)| intent.clone());
        (intents.collect(), counted(&self.velocity, &self.counting, means))
    }

    /// It means nothing that the policy names, or nothing that it may.
    fn unmeant(&self, agent: &AgentName, left_out: Option<Judged<'_>>, means: Option<&[Means]>) -> Decision {
        if let Some(Judged::Deny(code, rule, reason)) = left_out {
            let (intent, intents) = (self.intents.first().cloned(), self.intents.clone());
            return Decision::Deny(Deny { code, rule, intent, intents, reason, is_hidden: false });
        }
        let why = means.into_iter().flatten().zip(&*self.intents).find_map(|(means, intent)| {
            if let Means::No(why) = means { Some(format!("it is not {intent}: {why}")) } else { None }
        });
        // A rule names it for the agent, so the agent is told.
        let why = why.unwrap_or_else(|| default_reason(agent, None));
        deny(DenyCode::NoIntent, format!("no intent of the policy names such a call; {why}"))
    }

    /// The rules in shadow that would have refused the call. One that cannot be judged would have.
    fn would_deny(&self, conditions: Conditions<'_>, means: Option<&[Means]>) -> Vec<RuleName> {
        if !matches!(conditions, Conditions::Judged(..)) {
            return Vec::new();
        }
        let is_meant =
            |index: usize| means.is_none_or(|means| !matches!(means.get(index), Some(Means::No(_))));
        let of_call = self.rules.iter().enumerate().filter(|(index, _)| is_meant(*index));
        let rules = of_call.flat_map(|(_, rules)| &rules.shadow);
        let binding = rules
            .filter(|rule| !matches!(judge(&rule.conditions, conditions, Judging::Any), Verdict::NotMet(_)));
        let mut names: Vec<_> = binding.map(|rule| rule.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

enum Judged<'r> {
    Allow(&'r RuleName),
    Hold(&'r HoldRule),
    Deny(DenyCode, Option<RuleName>, String),
}

impl IntentRules {
    /// Whether a rule denies it, whatever the call is.
    fn is_shut(&self) -> bool {
        self.deny.iter().any(|rule| rule.conditions.is_empty())
    }

    /// Whether a rule lets some call through, or holds it.
    pub(super) fn may_pass(&self) -> bool {
        !self.is_shut() && (!self.hold.is_empty() || !self.allow.is_empty())
    }

    /// Whether a rule is there to open it to the agent. An escalate rule with conditions is there to restrict what others open.
    pub(super) fn opens(&self) -> bool {
        !self.is_shut() && (!self.allow.is_empty() || self.hold.iter().any(|rule| rule.conditions.is_empty()))
    }

    fn judge(&self, agent: &AgentName, conditions: Conditions<'_>) -> Judged<'_> {
        let mut unclear: Option<(&RuleName, String)> = None;
        for rule in &self.deny {
            match rule.judge(conditions) {
                Verdict::Met => {
                    let reason = match &rule.reason {
                        Some(reason) => reason.to_string(),
                        None => format!("a rule denies {} to {agent}", self.intent),
                    };
                    return Judged::Deny(DenyCode::DeniedByRule, Some(rule.name.clone()), reason);
                }
                Verdict::NotMet(_) => {}
                // It may be just what the rule is there to deny.
                Verdict::Unknown(why) => unclear = unclear.or(Some((&rule.name, why))),
            }
        }
        if let Some((name, why)) = unclear {
            return not_judged(name, &why);
        }
        if matches!(conditions, Conditions::Shown) && !self.opens() {
            return Judged::Deny(DenyCode::DefaultDeny, None, default_reason(agent, Some(&self.intent)));
        }
        let (mut hold, mut allow) = (None, None);
        let mut not_met: Option<(&RuleName, String)> = None;
        let bounds = self.hold.iter().map(|rule| (&rule.name, &rule.conditions, Judging::Any));
        let bounds =
            bounds.chain(self.allow.iter().map(|rule| (&rule.name, &rule.conditions, Judging::Each)));
        for (index, (name, bounds, judging)) in bounds.enumerate() {
            match judge(bounds, conditions, judging) {
                Verdict::Met => match index.checked_sub(self.hold.len()) {
                    None => hold = hold.or(self.hold.get(index)),
                    Some(index) => allow = allow.or(self.allow.get(index)),
                },
                // An escalate rule would only have held it: that is not why nothing lets it pass.
                Verdict::NotMet(_) if index < self.hold.len() => {}
                Verdict::NotMet(why) => not_met = not_met.or(Some((name, why))),
                // Were it merely left out, an escalate rule that cannot be judged would leave the call allowed.
                Verdict::Unknown(why) => return not_judged(name, &why),
            }
        }
        match (hold, allow, not_met) {
            (Some(rule), _, _) => Judged::Hold(rule),
            (None, Some(rule), _) => Judged::Allow(&rule.name),
            (None, None, Some((name, why))) => Judged::Deny(
                DenyCode::ConditionFailed,
                Some(name.clone()),
                format!("condition not met: {why}"),
            ),
            (None, None, None) => {
                Judged::Deny(DenyCode::DefaultDeny, None, default_reason(agent, Some(&self.intent)))
            }
        }
    }
}

/// It may be just what a rule is there to deny.
fn not_told(why: &str) -> Judged<'static> {
    Judged::Deny(DenyCode::ConditionFailed, None, format!("what the call means cannot be told: {why}"))
}

fn not_judged(rule: &RuleName, why: &str) -> Judged<'static> {
    Judged::Deny(DenyCode::ConditionFailed, Some(rule.clone()), format!("condition cannot be judged: {why}"))
}

impl DenyRule {
    fn judge(&self, how: Conditions<'_>) -> Verdict {
        match judge(&self.conditions, how, Judging::Any) {
            // Some call is not what it denies.
            Verdict::Met if !matches!(how, Conditions::Judged(..)) && !self.conditions.is_empty() => {
                Verdict::NotMet(String::new())
            }
            verdict => verdict,
        }
    }
}

/// All must be met; one that is unknown outweighs one that is not met.
pub(super) fn judge(conditions: &[Condition], how: Conditions<'_>, judging: Judging) -> Verdict {
    let Conditions::Judged(arguments, around) = how else {
        // What no call of this target can meet, nobody can take as met.
        return conditions.iter().find_map(Condition::never).unwrap_or(Verdict::Met);
    };
    let mut verdict = Verdict::Met;
    for condition in conditions {
        match condition.judge(arguments, &around, judging) {
            Verdict::NotMet(why) if verdict == Verdict::Met => verdict = Verdict::NotMet(why),
            Verdict::Met | Verdict::NotMet(_) => {}
            unknown @ Verdict::Unknown(_) => return unknown,
        }
    }
    verdict
}

fn not_granted(question: &Question<'_>) -> Decision {
    let reason = format!("{} has no grant on the server {}", question.agent, question.server);
    deny(DenyCode::ServerNotGranted, reason)
}

fn deny(code: DenyCode, reason: String) -> Decision {
    Decision::Deny(denied(code, reason))
}

fn denied(code: DenyCode, reason: String) -> Deny {
    Deny { code, rule: None, intent: None, intents: Arc::default(), reason, is_hidden: false }
}

fn default_reason(agent: &AgentName, intent: Option<&IntentName>) -> String {
    match intent {
        Some(intent) => format!("no rule allows {intent} to {agent}"),
        None => format!("no rule allows this to {agent}"),
    }
}

fn reviewers(reviewers: &[String]) -> String {
    if reviewers.is_empty() { "a person".to_owned() } else { reviewers.join(" or ") }
}
