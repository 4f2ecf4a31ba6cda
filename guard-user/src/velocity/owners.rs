//! How many keys there are, and by whose calls they came.

use std::collections::HashMap;

use crate::types::AgentName;

/// How many keys there is room for.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// By all agents' calls, beyond what is kept for each.
    pub all: usize,
    /// By one agent's calls.
    pub each: usize,
    /// Of these, so many are there for it whatever the others do.
    pub kept: usize,
}

#[derive(Debug)]
pub(super) struct Owners {
    numbers: HashMap<AgentName, u32>,
    /// By number. Agents come from policies alone, so these are few.
    each: Vec<(AgentName, usize)>,
    /// Of all agents, beyond what is kept for each.
    beyond: usize,
    room: Room,
}

/// What there is no room in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Agent(usize),
    All(usize),
}

impl Owners {
    pub(super) fn new(room: Room) -> Self {
        Self { numbers: HashMap::new(), each: Vec::new(), beyond: 0, room }
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
        let own = self.count(number);
        own >= self.room.each || (own >= self.room.kept && self.beyond >= self.room.all)
    }

    /// Room for `count` more keys of `agent`, or for none.
    pub(super) fn reserve(&mut self, agent: &AgentName, count: usize) -> Result<(), Full> {
        self.reserve_within(agent, count, self.room)
    }

    /// The same for what refuses nobody: half of the room is not for that.
    pub(super) fn reserve_for_shadow(&mut self, agent: &AgentName, count: usize) -> Result<(), Full> {
        let Room { all, each, kept } = self.room;
        self.reserve_within(agent, count, Room { all: all / 2, each: each / 2, kept: kept / 2 })
    }

    fn reserve_within(&mut self, agent: &AgentName, count: usize, room: Room) -> Result<(), Full> {
        let number = self.number(agent);
        let before = self.count(number);
        let after = before.saturating_add(count);
        if after > room.each {
            return Err(Full::Agent(room.each));
        }
        if after > room.kept && self.beyond_with(before, after) > room.all {
            return Err(Full::All(room.all));
        }
        self.set(number, after);
        Ok(())
    }

    /// The same for one that was there before.
    pub(super) fn add(&mut self, agent: &AgentName) -> u32 {
        let number = self.number(agent);
        self.set(number, self.count(number).saturating_add(1));
        number
    }

    pub(super) fn give_back(&mut self, number: u32, count: usize) {
        self.set(number, self.count(number).saturating_sub(count));
    }

    fn count(&self, number: u32) -> usize {
        usize::try_from(number).ok().and_then(|at| self.each.get(at)).map_or(0, |(_, count)| *count)
    }

    fn set(&mut self, number: u32, after: usize) {
        let Some((_, count)) = usize::try_from(number).ok().and_then(|at| self.each.get_mut(at)) else {
            return;
        };
        let before = std::mem::replace(count, after);
        self.beyond = self.beyond_with(before, after);
    }

    /// What all agents have beyond what is kept for each, once one has `after` keys instead of `before`.
    fn beyond_with(&self, before: usize, after: usize) -> usize {
        let kept = self.room.kept;
        (self.beyond + after.saturating_sub(kept)).saturating_sub(before.saturating_sub(kept))
    }
}
