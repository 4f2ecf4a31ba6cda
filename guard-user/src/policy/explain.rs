//! Why the policy decides as it does: every rule that was judged, and those that nearly were.
//!
//! The decision is that of `decide`, and each rule's verdict is that of the compiled rule. What else is told, such as the
//! rules of other agents, is read off the files and decides nothing.

mod near;

use std::path::{Path, PathBuf};

use super::condition::{Condition, Verdict};
use super::decide::{Conditions, IntentRules, RuleSet, judge};
use super::decision::DenyCode;
use super::fact::Judging;
use super::file::{Choice, Document, PolicyRule};
use super::flow::FlowSet;
use super::meaning::{Means, Meant};
use super::rule::{IntentPattern, RuleName};
use super::target::{NEEDED_METHODS, is_of_protocol};
use super::{Asked, Decision, Effect, Policy, Question, load, packs};
use crate::config::problem::suggest;
use crate::config::{Problems, Server};
use crate::risk::Score;
use crate::rpc::Target;
use crate::types::{IntentName, ProfileName, ServerName};

pub use near::{NEAR_RULES_MAX, NearRule, Nearness};

/// The policy together with what its files say, for those who write them. The running guard needs the policy alone.
#[derive(Debug)]
pub struct Written {
    policy: Policy,
    document: Document,
    servers: Vec<ServerName>,
}

/// A decision and how it came about.
#[derive(Debug, Clone)]
pub struct Explanation {
    pub decision: Decision,
    /// How risky the policy takes it for.
    pub risk: Option<Score>,
    /// All that the call means, whoever asks, or may mean if nobody can tell.
    pub intents: Vec<IntentName>,
    /// Each intent of the target that not every call means, and what this one meets of its `when`.
    pub meant: Vec<MeantIntent>,
    /// The rules for this agent and these intents, each with what it says of this call.
    pub rules: Vec<JudgedRule>,
    /// Rules that are not for this call, but nearly.
    pub near: Vec<NearRule>,
    /// Further ones of these.
    pub near_left_off: usize,
    /// Whether lists show the target to the agent; `None`: it is in no list.
    pub is_listed: Option<bool>,
    /// What the author may have meant.
    pub hints: Vec<String>,
}

/// An intent with a `when`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeantIntent {
    pub intent: IntentName,
    /// Such as `force_is: true`.
    pub when: Vec<String>,
    pub applies: Applies,
}

/// A rule that names the agent and one of the target's intents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedRule {
    pub rule: RuleName,
    /// Where it stands, such as `seed.yaml:14`.
    pub at: Option<String>,
    /// None of a flow rule about a message of which no intent speaks.
    pub intent: Option<IntentName>,
    /// As the rule writes it.
    pub pattern: Option<IntentPattern>,
    pub effect: Effect,
    /// Such as `max_recipients: 10`.
    pub conditions: Vec<String>,
    pub applies: Applies,
    /// It binds nobody, and is told in records.
    pub is_shadow: bool,
    /// It is the rule that the decision names.
    pub decides: bool,
    /// It is about where the call sends, whatever its intents are.
    pub is_flow: bool,
}

/// What a rule's conditions say of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applies {
    Yes,
    /// This condition is not met.
    No(String),
    /// This cannot be judged, which denies the call.
    Unknown(String),
}

impl Written {
    /// Like [`Policy::load`].
    pub fn load(dir: &Path, servers: &[Server]) -> Result<Self, Problems> {
        Self::of(&load::files(dir)?, &packs::own(dir)?, servers)
    }

    /// The same from texts that are already in memory, each with its file's name.
    pub fn from_texts(files: &[(PathBuf, String)], servers: &[Server]) -> Result<Self, Problems> {
        Self::of(files, &[], servers)
    }

    fn of(
        files: &[(PathBuf, String)],
        own_packs: &[(PathBuf, String)],
        servers: &[Server],
    ) -> Result<Self, Problems> {
        let (document, policy) = load::compiled(files, own_packs, servers)?;
        Ok(Self { policy, document, servers: servers.iter().map(|server| server.name.clone()).collect() })
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The profile that a call has: the one that it names, else the first of its agent.
    pub fn profile<'a>(&'a self, asked: &'a Asked) -> Option<&'a ProfileName> {
        let first = || self.policy.agent(&asked.agent)?.profiles.first();
        asked.profile.as_ref().or_else(first)
    }

    /// A name in the question that the files do not have: its key, what is wrong, a hint.
    pub fn unknown_name(&self, asked: &Asked) -> Option<(&'static str, String, Option<String>)> {
        let Some(entry) = self.policy.agent(&asked.agent) else {
            let known = self.policy.agents().map(|(agent, _)| agent.as_str());
            let hint = suggest(asked.agent.as_str(), known);
            return Some(("agent", format!("there is no agent {:?}", asked.agent), hint));
        };
        if !self.servers.contains(&asked.server) {
            let hint = suggest(asked.server.as_str(), self.servers.iter().map(ServerName::as_str));
            return Some(("server", format!("guard.yaml has no server {:?}", asked.server), hint));
        }
        if let Some(name) = asked.read.iter().find(|name| self.policy.label(name.as_str()).is_err()) {
            let hint = suggest(name.as_str(), self.policy.labels.names());
            return Some(("mark", format!("there is no label {name:?}"), hint));
        }
        let profile = asked.profile.as_ref().filter(|profile| !entry.profiles.contains(profile))?;
        let hint = suggest(profile.as_str(), entry.profiles.iter().map(ProfileName::as_str));
        Some(("profile", format!("{} has no profile {profile:?}", asked.agent), hint))
    }

    /// What the policy counts `asked` as, where it scores calls; see [`Policy::counted_as`].
    pub fn counted_as(&self, asked: &Asked) -> Option<String> {
        let question = asked.question(self.profile(asked));
        self.policy.counted_as(&question).filter(|_| self.policy.speaks_of_risk())
    }

    /// The decision about `asked` and how it came about.
    pub fn explain(&self, asked: &Asked) -> Explanation {
        let mut question = asked.question(self.profile(asked));
        let is_of_server = question.is_of_server();
        let risk = self.policy.risk(&question, asked.known.filter(|_| !is_of_server));
        question.around.risk = asked.risk.or(risk.as_ref().map(|risk| risk.score));
        let decision = if is_of_server {
            self.policy.decide_of_server(&mut question, None)
        } else {
            self.policy.decide(&question)
        };
        let targets = self.policy.intents.get(question.server);
        let found = targets.and_then(|targets| targets.find(question.target, question.method));
        let how = Conditions::Judged(question.arguments, question.around);
        let each: Vec<(Meant, Means)> =
            found.into_iter().flat_map(|all| all.iter().map(|one| (one.clone(), one.by(how)))).collect();
        let is_meant = |(_, means): &&(Meant, Means)| !matches!(means, Means::No(_));
        let intents: Vec<_> = each.iter().filter(is_meant).map(|(one, _)| one.intent.clone()).collect();
        let of_some = each.into_iter().filter(|(one, _)| !one.when.is_empty());
        let meant: Vec<_> = of_some.map(MeantIntent::from).collect();
        let rules = self.judged(&question, &decision);
        let (near, near_left_off) = match &decision {
            open if is_protocol(open) => (Vec::new(), 0),
            _ => near::rules(&self.document, asked, &intents, &rules),
        };
        let is_listed = question
            .target
            .is_thing()
            .then(|| self.policy.may_see(question.agent, question.profile, question.server, question.target));
        let hints = near::hints(&self.document, asked, (&intents, &meant), &rules, &decision);
        Explanation { decision, risk, intents, meant, rules, near, near_left_off, is_listed, hints }
    }

    /// Every rule of the set that decides, as it stands there.
    fn judged(&self, question: &Question<'_>, decision: &Decision) -> Vec<JudgedRule> {
        let surface =
            self.policy.agents.get(question.agent).and_then(|agent| agent.servers.get(question.server));
        let set = surface.and_then(|surface| surface.targets.find(question.target, question.method));
        let is_needed = question.target == Target::Method && NEEDED_METHODS.contains(&question.method);
        let is_of_flow = matches!(decision, Decision::Deny(deny) if deny.code == DenyCode::Flow);
        let mut rules: Vec<_> = match (set, surface) {
            // The protocol's own methods that every client needs are open whatever a rule says, but for flow rules.
            (set, Some(surface)) if is_of_flow && (set.is_none() || (is_needed && surface.is_granted)) => {
                self.of_flow(surface.sends(question), None, question)
            }
            (Some(set), _) if !is_protocol(decision) => {
                let is_free = is_of_protocol(question) && question.around.is_bare;
                let of_flow = self.of_flow(&set.flow, set.intents.first(), question);
                self.of_set(set, question).chain(of_flow.into_iter().filter(|_| !is_free)).collect()
            }
            _ => return Vec::new(),
        };
        if let Some(at) = deciding(decision, &rules)
            && let Some(rule) = rules.get_mut(at)
        {
            rule.decides = true;
        }
        rules
    }

    fn of_set<'a>(
        &'a self,
        set: &'a RuleSet,
        question: &'a Question<'_>,
    ) -> impl Iterator<Item = JudgedRule> + 'a {
        let how = Conditions::Judged(question.arguments, question.around);
        let meant =
            set.rules.iter().zip(&*set.meant).filter(move |(_, one)| !matches!(one.by(how), Means::No(_)));
        meant.flat_map(move |(rules, _)| {
            let of =
                |(name, judging, conditions)| self.rule(name, judging, &rules.intent, conditions, question);
            compiled(rules).into_iter().map(of).collect::<Vec<_>>()
        })
    }

    fn rule(
        &self,
        name: &RuleName,
        (says, judging): (Says, Judging),
        intent: &IntentName,
        conditions: &[Condition],
        question: &Question<'_>,
    ) -> JudgedRule {
        let written = self.document.policies.iter().find(|rule| rule.name == *name);
        let how = Conditions::Judged(question.arguments, question.around);
        JudgedRule {
            rule: name.clone(),
            at: written.map(|rule| rule.place.short()),
            intent: Some(intent.clone()),
            pattern: written.map(|rule| rule.intent.value.clone()),
            effect: match says {
                Says::Effect(effect) => effect,
                // Only rules that restrict can be in shadow.
                Says::Shadow => written.map_or(Effect::Deny, PolicyRule::effect),
            },
            is_shadow: matches!(says, Says::Shadow),
            conditions: conditions.iter().map(ToString::to_string).collect(),
            applies: judge(conditions, how, judging).into(),
            decides: false,
            is_flow: false,
        }
    }

    /// The flow rules about where the target sends.
    fn of_flow(
        &self,
        flow: &FlowSet,
        intent: Option<&IntentName>,
        question: &Question<'_>,
    ) -> Vec<JudgedRule> {
        let judged = flow.rules.iter().map(|rule| {
            let written = self.document.flow.rules.iter().find(|written| written.name == rule.name);
            let after = written.map_or_else(String::new, |written| format!("after: {}", written.after.value));
            JudgedRule {
                rule: rule.name.clone(),
                at: written.map(|rule| rule.place.short()),
                intent: intent.cloned(),
                pattern: None,
                effect: if rule.denies { Effect::Deny } else { Effect::Escalate },
                conditions: vec![after, format!("sink: {}", rule.sink.as_str())],
                applies: flow.judge(rule, question.around.read).into(),
                is_shadow: rule.is_shadow,
                decides: false,
                is_flow: true,
            }
        });
        judged.collect()
    }
}

impl From<Verdict> for Applies {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Met => Self::Yes,
            Verdict::NotMet(why) => Self::No(why),
            Verdict::Unknown(why) => Self::Unknown(why),
        }
    }
}

impl From<(Meant, Means)> for MeantIntent {
    fn from((one, means): (Meant, Means)) -> Self {
        Self {
            intent: one.intent,
            when: one.when.iter().map(ToString::to_string).collect(),
            applies: match means {
                Means::Yes | Means::Perhaps => Applies::Yes,
                Means::No(why) => Applies::No(why),
                Means::Unclear(why) => Applies::Unknown(why),
            },
        }
    }
}

/// What a compiled rule does.
#[derive(Clone, Copy)]
enum Says {
    Effect(Effect),
    Shadow,
}

/// The rules for one intent, each with what it says and when.
fn compiled(rules: &IntentRules) -> Vec<(&RuleName, (Says, Judging), &[Condition])> {
    let (deny, hold, allow) =
        (Says::Effect(Effect::Deny), Says::Effect(Effect::Escalate), Says::Effect(Effect::Allow));
    let deny = rules.deny.iter().map(|rule| (&rule.name, (deny, Judging::Any), &rule.conditions[..]));
    let hold = rules.hold.iter().map(|rule| (&rule.name, (hold, Judging::Any), &rule.conditions[..]));
    let allow = rules.allow.iter().map(|rule| (&rule.name, (allow, Judging::Each), &rule.conditions[..]));
    let shadow =
        rules.shadow.iter().map(|rule| (&rule.name, (Says::Shadow, Judging::Any), &rule.conditions[..]));
    deny.chain(hold).chain(allow).chain(shadow).collect()
}

/// Where the rule stands that the decision names. Of an allowed call with several intents it is the first one's.
fn deciding(decision: &Decision, rules: &[JudgedRule]) -> Option<usize> {
    let (name, intent) = match decision {
        Decision::Allow(allow) => (Some(&allow.rule), None),
        Decision::Hold(hold) => (Some(&hold.rule), Some(&hold.intent)),
        Decision::Deny(deny) => (deny.rule.as_ref(), deny.intent.as_ref()),
    };
    let name = name?;
    rules.iter().position(|rule| {
        rule.rule == *name
            && (rule.is_flow || intent.is_none_or(|intent| rule.intent.as_ref() == Some(intent)))
    })
}

fn is_protocol(decision: &Decision) -> bool {
    matches!(decision, Decision::Allow(allow) if allow.intents.is_empty())
}

impl PolicyRule {
    fn effect(&self) -> Effect {
        match self.decision {
            Choice::Allow => Effect::Allow,
            Choice::Deny => Effect::Deny,
            Choice::Escalate => Effect::Escalate,
        }
    }
}

#[cfg(test)]
mod tests;
