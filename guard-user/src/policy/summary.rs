//! Who may do what, as a table for people.

use std::collections::BTreeMap;

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
    pub effect: Effect,
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
                    let effect = self.effect(&agent, &server, &tool);
                    grants.push(Grant { agent, server, tool, effect });
                }
            }
        }
        grants
    }

    fn effect(&self, agent: &AgentName, server: &ServerName, tool: &str) -> Effect {
        let target = Target::Tool(tool);
        let question = Question {
            agent,
            profile: None,
            server,
            method: "tools/call",
            target,
            arguments: None,
            around: Circumstances::default(),
        };
        self.decide_assuming_conditions(&question).effect()
    }
}
