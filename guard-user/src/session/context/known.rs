//! What an agent has said to each server when it opened a session or asked what there is. It may say the same again, whatever it has read.

use std::collections::BTreeMap;

use crate::rpc::Words;
use crate::types::ServerName;

/// Messages of one context that are known to one server: which of them is said tells at most four bits. A client
/// without sessions says some ten different ones.
pub(super) const KNOWN_PER_SERVER_MAX: usize = 16;

/// The first ones stay: nobody can have them replaced.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<ServerName, Vec<Words>>);

impl Known {
    pub(super) fn has(&self, server: &ServerName, words: &Words) -> bool {
        self.0.get(server).is_some_and(|known| known.contains(words))
    }

    /// Whether it is new, and there was room for it.
    pub(super) fn learn(&mut self, server: &ServerName, words: Words) -> bool {
        if self.has(server, &words) {
            return false;
        }
        let known = self.0.entry(server.clone()).or_default();
        let has_room = known.len() < KNOWN_PER_SERVER_MAX;
        if has_room {
            known.push(words);
        }
        has_room
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first ones of a server first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ServerName, Words)> {
        self.0.iter().flat_map(|(server, known)| known.iter().map(move |words| (server, *words)))
    }
}

#[cfg(test)]
mod tests;
