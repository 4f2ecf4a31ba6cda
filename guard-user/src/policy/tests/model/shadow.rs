//! A server in shadow, as another policy whose rules are in shadow one by one.

use super::{Model, Rule, SERVERS};

impl Model {
    /// What calls of `server` meet.
    pub(super) fn on(&self, server: usize) -> Self {
        let mut model = self.clone();
        if self.shadowed != Some(server) {
            return model;
        }
        let mut opening = Vec::new();
        for rule in model.rules.iter_mut().filter(|rule| rule.choice() != "allow") {
            if rule.choice() == "escalate" && rule.conditions.is_empty() && !rule.shadow {
                opening.push(Rule { decision: 2, ..rule.clone() });
            }
            rule.shadow = true;
        }
        model.rules.extend(opening);
        model.flow.shadow();
        model
    }

    pub(super) fn shadow_yaml(&self) -> String {
        self.shadowed.map_or(String::new(), |server| format!("shadow_servers: [{}]\n", SERVERS[server]))
    }
}
