//! Who may do what, as a table for people.

use std::collections::BTreeMap;

use super::decide::{IntentRules, RuleSet};
use super::{Circumstances, Decision, Policy, Question};
use crate::rpc::Target;
use crate::types::{AgentName, ServerName};

/// What the policy says about an agent and a tool, conditions and velocity apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    Allow,
    Escalate,
    Deny,
}

impl Effect {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Escalate => "escalate",
            Self::Deny => "deny",
        }
    }
}

impl Decision {
    pub fn effect(&self) -> Effect {
        match self {
            Self::Allow(_) => Effect::Allow,
            Self::Hold(_) => Effect::Escalate,
            Self::Deny(_) => Effect::Deny,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Grant {
    pub agent: AgentName,
    pub server: ServerName,
    pub tool: String,
    /// What becomes of a call that no condition lets off.
    pub effect: Effect,
    /// Whether that depends on the call: on its arguments, its risk, what was read, or when and from where it comes.
    pub conditional: bool,
    /// Some call needs no approval.
    #[serde(skip)]
    pub may_pass: bool,
}

impl Grant {
    /// Such as `allow/escalate*`: with a star, it depends on conditions.
    pub fn cell(&self) -> String {
        let is_either = self.effect == Effect::Escalate && self.may_pass;
        let (either, star) = (if is_either { "allow/" } else { "" }, if self.conditional { "*" } else { "" });
        format!("{either}{}{star}", self.effect.as_str())
    }
}

impl Policy {
    /// Every agent with every tool that some intent names, sorted.
    pub fn grants(&self) -> Vec<Grant> {
        let mut tools: BTreeMap<&ServerName, Vec<&str>> = BTreeMap::new();
        for (server, targets) in &self.intents {
            let tools = tools.entry(server).or_default();
            tools.extend(targets.tools().map(|(tool, _)| tool));
            tools.sort_unstable();
        }
        let mut agents: Vec<_> = self.entries.keys().collect();
        agents.sort_unstable();
        let mut grants = Vec::new();
        for agent in agents {
            for (server, tools) in &tools {
                for tool in tools {
                    let (agent, server, tool) = (agent.clone(), (*server).clone(), (*tool).to_owned());
                    grants.push(self.grant(agent, server, tool));
                }
            }
        }
        grants
    }

    fn grant(&self, agent: AgentName, server: ServerName, tool: String) -> Grant {
        let target = Target::Tool(&tool);
        let question = Question {
            agent: &agent,
            profile: None,
            server: &server,
            method: "tools/call",
            target,
            arguments: None,
            around: Circumstances::default(),
        };
        let effect = self.decide_as_shown(&question).effect();
        let surface = self.agents.get(&agent).and_then(|agent| agent.servers.get(&server));
        let set = surface.and_then(|surface| surface.targets.find(target, question.method));
        let conditional = match effect {
            // What a condition alone would hold is not opened by that.
            Effect::Deny => self.decide_assuming_conditions(&question).effect() != Effect::Deny,
            Effect::Allow | Effect::Escalate => set.is_some_and(RuleSet::is_conditional),
        };
        let may_pass = effect != Effect::Deny && set.is_some_and(RuleSet::may_pass);
        Grant { agent, server, tool, effect, conditional, may_pass }
    }
}

impl RuleSet {
    /// Whether two calls may have different answers. Of a set that opens its target.
    fn is_conditional(&self) -> bool {
        self.meant.iter().any(|meant| !meant.when.is_empty())
            || self.flow.rules.iter().any(|rule| !rule.is_shadow)
            || self.rules.iter().any(IntentRules::is_conditional)
    }

    /// Whether some call needs no approval. An intent with a `when` can be left out.
    fn may_pass(&self) -> bool {
        let needs_none = |rules: &IntentRules| !rules.always_holds() && !rules.allow.is_empty();
        let mut always = self.rules.iter().zip(&*self.meant).filter(|(_, meant)| meant.when.is_empty());
        always.all(|(rules, _)| needs_none(rules)) && self.rules.iter().any(needs_none)
    }
}

impl IntentRules {
    fn always_holds(&self) -> bool {
        self.hold.iter().any(|rule| rule.conditions.is_empty())
    }

    fn is_conditional(&self) -> bool {
        let is_held_by_some =
            !self.hold.is_empty() || self.allow.iter().all(|rule| !rule.conditions.is_empty());
        !self.deny.is_empty() || (!self.always_holds() && is_held_by_some)
    }
}
