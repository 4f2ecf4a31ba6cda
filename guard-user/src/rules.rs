//! One version of everything that judges a call: policy and credentials, loaded together and swapped together.

use std::path::Path;

use http::HeaderMap;

use crate::config::{Problems, Server};
use crate::identity::{Caller, Credentials, Unidentified, identify};
use crate::policy::Policy;

/// An immutable version. A request takes one at its start and keeps it to its end.
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

    /// Which agent sent `headers`: its credential is known, and the policy still has it with that client and profile.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Caller, Unidentified> {
        identify(headers, &self.credentials, |agent, client, profile| {
            self.policy.has_entry(agent, client, profile)
        })
    }
}
