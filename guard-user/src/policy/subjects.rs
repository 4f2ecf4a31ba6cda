//! Which agent a token's subject is.

use std::collections::HashMap;

use super::Policy;
use super::file::{Document, Place};
use crate::config::problem::suggest;
use crate::config::{Issuer, Problems};
use crate::identity::Entry;
use crate::types::{AgentName, IssuerName};

/// Agents by issuer and subject: each of one.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    agents: HashMap<IssuerName, HashMap<Box<str>, AgentName>>,
    /// Where each agent's entry names its issuer.
    places: Vec<(IssuerName, Place)>,
}

impl Subjects {
    /// A subject that two entries name is told.
    pub(super) fn of(document: &Document) -> (Self, Problems) {
        let (mut subjects, mut problems) = (Self::default(), Problems::default());
        for agent in &document.agents {
            let (Some(token), Some(place)) = (agent.needs.token(), &agent.issuer) else { continue };
            let name = &agent.name.value;
            let known = subjects.agents.entry(token.issuer.clone()).or_default();
            if let Some(first) = known.insert(token.subject.clone(), name.clone()) {
                let what = format!("{name} and {first} have the same issuer and subject");
                let hint =
                    "nobody could tell them apart; have the issuer give each agent a subject of its own";
                problems.push(place.problem(what, Some(hint.into())));
            }
            subjects.places.push((token.issuer.clone(), place.clone()));
        }
        (subjects, problems)
    }
}

impl Policy {
    /// The agent whose tokens have this subject.
    pub fn by_subject(&self, issuer: &IssuerName, subject: &str) -> Option<Entry<'_>> {
        let agent = self.subjects.agents.get(issuer)?.get(subject)?;
        self.entries.get(agent).map(|entry| entry.named(agent))
    }

    /// What is wrong with the issuers that entries name, where `known` are those of `guard.yaml`.
    pub fn check_issuers(&self, known: &[Issuer]) -> Problems {
        let mut problems = Problems::default();
        for (issuer, place) in &self.subjects.places {
            if !known.iter().any(|known| known.name == *issuer) {
                let hint = suggest(issuer.as_str(), known.iter().map(|known| known.name.as_str()));
                let hint = hint.unwrap_or_else(|| "it has none; add it to `issuers`".into());
                let hint = format!("{hint}; a running guard takes guard.yaml at its start only");
                problems.push(place.problem(format!("guard.yaml has no issuer {issuer}"), Some(hint)));
            }
        }
        problems
    }
}
