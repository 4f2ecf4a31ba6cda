//! What each agent has of something, in the order in which it got it: who has too much loses the oldest of his own.

use std::collections::{BTreeMap, HashMap};

use crate::types::AgentName;

#[derive(Debug)]
pub(super) struct Ages<K> {
    of: HashMap<AgentName, BTreeMap<u64, K>>,
    next: u64,
}

impl<K> Default for Ages<K> {
    fn default() -> Self {
        Self { of: HashMap::new(), next: 0 }
    }
}

impl<K: Clone> Ages<K> {
    /// Adds one, the youngest of this agent's. The number is for its removal.
    pub(super) fn add(&mut self, agent: &AgentName, key: K) -> u64 {
        let number = self.next;
        self.next += 1;
        self.of.entry(agent.clone()).or_default().insert(number, key);
        number
    }

    pub(super) fn remove(&mut self, agent: &AgentName, number: u64) {
        if let Some(all) = self.of.get_mut(agent) {
            all.remove(&number);
            if all.is_empty() {
                self.of.remove(agent);
            }
        }
    }

    /// The oldest of an agent that has `most` or more, and its number.
    pub(super) fn oldest_of(&self, agent: &AgentName, most: usize) -> Option<(u64, K)> {
        let all = self.of.get(agent).filter(|all| all.len() >= most)?;
        all.first_key_value().map(|(number, key)| (*number, key.clone()))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_an_agent_with_enough_is_named() {
        let agent = |name| AgentName::parse(name).unwrap();
        let mut ages = Ages::default();
        let first = ages.add(&agent("a"), "1");
        ages.add(&agent("b"), "2");
        let last = ages.add(&agent("a"), "3");
        assert_eq!(ages.oldest_of(&agent("a"), 3), None);
        assert_eq!(ages.oldest_of(&agent("a"), 2), Some((first, "1")));
        ages.remove(&agent("a"), first);
        assert_eq!(ages.oldest_of(&agent("a"), 1), Some((last, "3")));
        assert_eq!(ages.oldest_of(&agent("c"), 0), None);
    }
}
