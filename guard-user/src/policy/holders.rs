//! Which agent is the holder of a certificate.

use std::collections::HashMap;

use super::file::{Document, Place};
use super::{Needs, Policy};
use crate::config::Problems;
use crate::identity::{CertificateName, Entry};
use crate::types::AgentName;

/// Agents by what names them in a certificate: each of one.
#[derive(Debug, Default)]
pub(super) struct Holders {
    agents: HashMap<CertificateName, AgentName>,
    /// Where each agent's entry describes its certificate.
    places: Vec<Place>,
}

impl Holders {
    /// A certificate that two entries name is told.
    pub(super) fn of(document: &Document) -> (Self, Problems) {
        let (mut holders, mut problems) = (Self::default(), Problems::default());
        for agent in &document.agents {
            let (Some(certificate), Some(place)) = (agent.needs.certificate(), &agent.certificate) else {
                continue;
            };
            let name = &agent.name.value;
            if let Some(first) = holders.agents.insert(certificate.clone(), name.clone()) {
                let what = format!("{name} and {first} have the same certificate");
                let hint = "nobody could tell them apart; give each agent a certificate of its own";
                problems.push(place.problem(what, Some(hint.into())));
            }
            holders.places.push(place.clone());
        }
        (holders, problems)
    }
}

impl Policy {
    /// The agents whose entries have one of these names.
    pub fn by_certificate(&self, names: &[CertificateName]) -> Vec<(Entry<'_>, &Needs)> {
        let mut found: Vec<(Entry<'_>, &Needs)> = Vec::new();
        for agent in names.iter().filter_map(|name| self.holders.agents.get(name)) {
            let Some(entry) = self.entries.get(agent) else { continue };
            if found.iter().all(|(known, _)| known.agent != agent) {
                found.push((entry.named(agent), &entry.needs));
            }
        }
        found
    }

    /// What is wrong with the certificates that entries name, where `guard.yaml` names no CA of clients.
    pub fn check_client_ca(&self, is_there: bool) -> Problems {
        let mut problems = Problems::default();
        if !is_there {
            for place in &self.holders.places {
                let hint = "add `client_ca: [clients.pem]` to `tls` in guard.yaml, with the CA that makes the agents' certificates; a \
                            running guard takes guard.yaml at its start only";
                let what = "needs a certificate, and no client is asked for one";
                problems.push(place.problem(what, Some(hint.into())));
            }
        }
        problems
    }
}
