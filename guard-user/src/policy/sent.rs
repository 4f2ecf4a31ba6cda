//! Where a message sends of which no intent speaks: one of the protocol's own, a client's answer to its server, what a server asks.
//!
//! It goes where the most open of its server's targets send: nobody can tell what the server does with it.

use super::decide::{Conditions, Surface};
use super::decision::Decision;
use super::flow::FlowSet;
use super::target::is_protocol_method;
use super::{Circumstances, Policy, Question};
use crate::rpc::Target;
use crate::types::{AgentName, LabelName, ProfileName, ServerName};

/// By this, the pipeline also asks about what has no method: streams, their ends, and answers. So what an intent says of pings alone must
/// not speak for it.
const PING: &str = "ping";

impl Surface {
    /// Where the message sends. The sink of an intent's matcher for just this method goes before that of its server.
    pub(super) fn sends(&self, question: &Question<'_>) -> &FlowSet {
        let named = self.targets.find(question.target, question.method);
        named.filter(|_| question.method != PING).map_or(&self.flow, |rules| &rules.flow)
    }

    /// What flow rules leave of `decision`, which lets such a message pass.
    pub(super) fn flows(
        &self,
        decision: Decision,
        question: &Question<'_>,
        conditions: Conditions<'_>,
    ) -> Decision {
        if question.around.is_bare || !matches!(conditions, Conditions::Judged(..)) {
            return decision;
        }
        self.sends(question).apply(decision, question, &[].into(), false)
    }
}

impl Question<'_> {
    /// Not the agent's call, but its server's: nothing that the agent did before speaks for or against it, and no person is waited for.
    pub(super) fn is_of_server(&self) -> bool {
        matches!(self.target, Target::ServerRequest(_))
    }
}

impl Policy {
    /// Whether the server may ask this agent something by `method`; see [`Question::is_of_server`]. The answer sends where the call does
    /// in whose course it is asked, `about`; `None`: any call there may be. An intent that names the question can close that way, and
    /// not open it: of the answer nobody knows what was asked.
    pub fn may_ask(
        &self,
        (agent, profile): (&AgentName, Option<&ProfileName>),
        server: &ServerName,
        method: &str,
        around: Circumstances<'_>,
        about: Option<(Target<'_>, &str)>,
    ) -> bool {
        let target = Target::ServerRequest(method);
        let mut question = Question { agent, profile, server, method, target, arguments: None, around };
        question.around.risk = self.risk(&question, None).map(|risk| risk.score);
        matches!(self.decide_of_server(&mut question, about), Decision::Allow(_))
    }

    /// The decision about such a question of a server's.
    pub(super) fn decide_of_server(
        &self,
        question: &mut Question<'_>,
        about: Option<(Target<'_>, &str)>,
    ) -> Decision {
        let surface = self.agents.get(question.agent).and_then(|agent| agent.servers.get(question.server));
        let call = about.and_then(|(target, method)| surface?.targets.find(target, method));
        // The answer to a ping is empty.
        let is_ping = question.method == PING;
        // Without a rule of its own it goes where its answer does.
        question.around.is_bare = is_ping || call.is_some();
        let decision = self.decide(question);
        let way = call.map(|call| &call.flow).or(surface.map(|surface| &surface.flow));
        let decision = match way.filter(|_| !is_ping) {
            Some(flow) => flow.apply(decision, question, &[].into(), false),
            None => decision,
        };
        decision.of_server()
    }

    /// Whether who has read this has read all that any answer of the server carries, or something above.
    pub fn has_read_all(&self, read: &[LabelName], agent: &AgentName, server: &ServerName) -> bool {
        let Some(surface) = self.agents.get(agent).and_then(|agent| agent.servers.get(server)) else {
            return !self.has_flow_rules || self.labels.mark(read) >= self.labels.top();
        };
        let labels = surface.targets.values().filter_map(|rules| rules.flow.label.as_ref());
        let highest = labels.filter_map(|label| self.labels.level(label)).max();
        !self.has_flow_rules || highest.is_none_or(|highest| self.labels.mark(read) >= highest)
    }

    /// Whether who has read this has read all that the answers to such a request carry, or something above.
    pub fn has_read(
        &self,
        read: &[LabelName],
        agent: &AgentName,
        server: &ServerName,
        about: (Target<'_>, &str),
    ) -> bool {
        // The protocol carries nothing, whatever intents name.
        if about.0 == Target::Method && is_protocol_method(about.1) {
            return true;
        }
        let surface = self.agents.get(agent).and_then(|agent| agent.servers.get(server));
        let rules = surface.and_then(|surface| surface.targets.find(about.0, about.1));
        if rules.is_none() && about.0.is_thing() {
            // No rule speaks of it any more, so it may carry anything.
            return !self.has_flow_rules || self.labels.mark(read) >= self.labels.top();
        }
        let label = rules.and_then(|rules| rules.flow.label.as_ref());
        let level = label.and_then(|label| self.labels.level(label));
        level.is_none_or(|level| self.labels.mark(read) >= level)
    }
}
