//! How many keys there are, and by whose calls they came.

use std::collections::HashMap;

use crate::types::AgentName;

#[derive(Debug)]
pub(super) struct Owners {
    numbers: HashMap<AgentName, u32>,
    /// By number. Agents come from policies alone, so these are few.
    each: Vec<(AgentName, usize)>,
    all: usize,
    most: usize,
    most_each: usize,
}

/// What there is no room in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Agent(usize),
    All(usize),
}

impl Owners {
    pub(super) fn new(most: usize, most_each: usize) -> Self {
        Self { numbers: HashMap::new(), each: Vec::new(), all: 0, most, most_each }
    }

    pub(super) fn number(&mut self, agent: &AgentName) -> u32 {
        if let Some(number) = self.numbers.get(agent) {
            return *number;
        }
        let number = u32::try_from(self.each.len()).unwrap_or(u32::MAX);
        self.numbers.insert(agent.clone(), number);
        self.each.push((agent.clone(), 0));
        number
    }

    pub(super) fn name(&self, number: u32) -> Option<&AgentName> {
        self.each.get(usize::try_from(number).ok()?).map(|(name, _)| name)
    }

    /// Whether one more key has no room.
    pub(super) fn is_full_for(&mut self, agent: &AgentName) -> bool {
        let number = self.number(agent);
        let most_each = self.most_each;
        let is_full = self.all >= self.most;
        is_full || self.count(number).is_some_and(|own| *own >= most_each)
    }

    /// Room for `count` more keys of `agent`, or for none.
    pub(super) fn reserve(&mut self, agent: &AgentName, count: usize) -> Result<u32, Full> {
        let number = self.number(agent);
        if self.all.saturating_add(count) > self.most {
            return Err(Full::All(self.most));
        }
        let most_each = self.most_each;
        match self.count(number) {
            Some(own) if own.saturating_add(count) > most_each => return Err(Full::Agent(most_each)),
            Some(own) => *own += count,
            None => {}
        }
        self.all += count;
        Ok(number)
    }

    /// The same for one that was there before.
    pub(super) fn add(&mut self, agent: &AgentName) -> u32 {
        let number = self.number(agent);
        if let Some(own) = self.count(number) {
            *own += 1;
        }
        self.all += 1;
        number
    }

    pub(super) fn give_back(&mut self, number: u32, count: usize) {
        if let Some(own) = self.count(number) {
            *own = own.saturating_sub(count);
        }
        self.all = self.all.saturating_sub(count);
    }

    fn count(&mut self, number: u32) -> Option<&mut usize> {
        self.each.get_mut(usize::try_from(number).ok()?).map(|(_, count)| count)
    }
}
