//! What opens a target to an agent, by reading the rules one by one.

use super::*;

impl Rule {
    /// Whether it is there to open something, and not only to restrict what others open.
    pub(super) fn opens(&self) -> bool {
        self.choice() == "allow" || (self.choice() == "escalate" && self.conditions.is_empty())
    }
}

impl Model {
    pub(super) fn is_granted(&self, agent: usize, server: usize) -> bool {
        // Some intent with a matcher on the server is allowed or escalated and not denied.
        !self.is_bounded(agent, server)
            && (0..INTENTS.len()).any(|intent| {
                let rules = self.rules_for(agent, intent);
                let on_server = self.intents[intent].iter().any(|matcher| matcher.place().0 == server);
                let is_shut = rules.iter().any(|rule| rule.choice() == "deny" && rule.conditions.is_empty());
                on_server && !is_shut && rules.iter().any(|rule| rule.opens())
            })
    }

    /// Whether some intent of the call has nothing but conditional rules that escalate.
    pub(super) fn is_held_alone(&self, call: &Call) -> bool {
        let opens = |intent: &usize| self.rules_for(call.agent, *intent).iter().any(|rule| rule.opens());
        self.targeted(call).iter().any(|intent| !opens(intent))
    }

    /// Whether a deny rule without conditions is about the call.
    pub(super) fn is_shut(&self, call: &Call) -> bool {
        let mut meant = (0..INTENTS.len())
            .filter(|i| self.intents[*i].iter().any(|m| m.covers(call) && m.when().is_empty()));
        meant.any(|intent| {
            let rules = self.rules_for(call.agent, intent);
            rules.iter().any(|rule| rule.choice() == "deny" && rule.conditions.is_empty())
        })
    }
}
