//! One version of everything that judges a call: policy and credentials, loaded together and swapped together.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::config::{Problems, Server};
use crate::identity::{Caller, Credentials, Shown, Unidentified};
use crate::policy::Policy;

/// An immutable version. A request is decided by one; what comes later on its answer's stream is read by the one in force
/// then.
pub struct Rules {
    pub policy: Policy,
    pub credentials: Credentials,
    /// The policy's digest, as each record names it.
    pub digest: String,
}

impl Rules {
    /// Reads `policy_dir` whole, or says everything that is wrong with it.
    pub fn load(policy_dir: &Path, servers: &[Server]) -> Result<Self, Problems> {
        let (policy, credentials) = match (Policy::load(policy_dir, servers), Credentials::load(policy_dir)) {
            (Ok(policy), Ok(credentials)) => (policy, credentials),
            (policy, credentials) => {
                let mut problems = Problems::default();
                policy.err().into_iter().chain(credentials.err()).for_each(|found| problems.append(found));
                return Err(problems);
            }
        };
        let digest = policy.digest().to_string();
        Ok(Self { policy, credentials, digest })
    }

    /// Which agent's secret was `shown`: it is known, and the policy still has the agent with that client and profile.
    pub fn by_secret(&self, shown: &Shown<'_>) -> Result<Caller, Unidentified> {
        let caller = shown.by_secret(&self.credentials, Timestamp::now(), |agent, client, profile| {
            self.policy.has_entry(agent, client, profile)
        })?;
        if self.policy.needs_secret(caller.agent()) { Ok(caller) } else { Err(Unidentified::SecretNotNeeded) }
    }

    /// Whether `caller`, whom another version let in, would still be let in by what it showed: its entry is there and needs
    /// no more than that, and so is its credential. Its process is another question.
    pub fn still_know(&self, caller: &Caller) -> bool {
        let proves = match caller.credential() {
            Some(id) => self.policy.needs_secret(caller.agent()) && self.credentials.have(id, caller),
            None => !self.policy.needs_secret(caller.agent()),
        };
        proves && self.policy.has_entry(caller.agent(), caller.client(), caller.profile())
    }
}

/// The version that is in force. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct InForce(Arc<watch::Sender<Arc<Rules>>>);

impl InForce {
    pub fn new(rules: Rules) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(rules))))
    }

    pub fn load(&self) -> Arc<Rules> {
        Arc::clone(&self.0.borrow())
    }

    pub fn replace(&self, rules: Rules) {
        self.0.send_replace(Arc::new(rules));
    }

    /// Each version from now on, the one in force first. The sender lives as long as the guard.
    pub fn versions(&self) -> watch::Receiver<Arc<Rules>> {
        self.0.subscribe()
    }
}
