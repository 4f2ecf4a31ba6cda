//! Whether every part of the guard still moves. A watchdog that is fed by a timer tells only that timers work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that one part raises each time it comes round. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Beat {
    turns: Arc<AtomicU64>,
}

impl Beat {
    pub fn beat(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

/// The parts that must move, and where each was at the last look.
#[derive(Debug, Default)]
pub struct Pulse {
    parts: Vec<(&'static str, Beat, u64)>,
}

impl Pulse {
    /// Adds a part. It counts as standing still until it has moved once more.
    pub fn watch(&mut self, name: &'static str, beat: Beat) {
        let turns = beat.turns();
        self.parts.push((name, beat, turns));
    }

    /// Parts that have not moved since the last time that everything had. Empty: all have, and a new look begins.
    pub fn standing(&mut self) -> Vec<&'static str> {
        let standing: Vec<_> = self
            .parts
            .iter()
            .filter(|(_, beat, seen)| beat.turns() == *seen)
            .map(|(name, ..)| *name)
            .collect();
        if standing.is_empty() {
            for (_, beat, seen) in &mut self.parts {
                *seen = beat.turns();
            }
        }
        standing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_must_move_between_two_signs_of_life() {
        let (accept, audit) = (Beat::default(), Beat::default());
        let mut pulse = Pulse::default();
        pulse.watch("accept", accept.clone());
        pulse.watch("audit", audit.clone());
        assert_eq!(pulse.standing(), ["accept", "audit"]);
        accept.beat();
        assert_eq!(pulse.standing(), ["audit"]);
        audit.beat();
        assert!(pulse.standing().is_empty());
        assert_eq!(pulse.standing(), ["accept", "audit"], "an old turn counts once");
    }
}
