//! Where a call comes from, as the kernel tells it.

use std::fmt;

use super::Verdict;
use crate::kernel::{Client, Unit};

/// Where a rule applies. All that is named must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) struct Origin {
    /// Users of this host, by their numbers.
    pub uids: Option<Vec<u32>>,
    pub units: Option<Vec<Unit>>,
    /// From another host, or not.
    pub remote: Option<bool>,
}

impl Origin {
    pub(in crate::policy) fn judge(&self, client: Option<&Client>) -> Verdict {
        let evidence = match client {
            Some(Client::Process(evidence)) => evidence,
            Some(Client::Remote) => {
                return if self.uids.is_none() && self.units.is_none() && self.remote == Some(true) {
                    Verdict::Met
                } else {
                    Verdict::NotMet("it comes from another host".into())
                };
            }
            // It hands on what comes from anywhere.
            Some(Client::Relay { name, .. }) => {
                return Verdict::Unknown(format!("{name} hands on connections of others"));
            }
            Some(Client::Neighbour { .. } | Client::UnknownLocal) | None => {
                return Verdict::Unknown("which process sends the call cannot be told".into());
            }
        };
        let place = &evidence.place;
        // Who was moved out of a cgroup that is gone may have come from any.
        let is_placed =
            evidence.cgroup_path.as_ref().is_some_and(|path| !path.split('/').any(|part| part == ".."));
        if !is_placed && (self.uids.is_some() || self.units.is_some()) {
            return Verdict::Unknown("the cgroup that it comes from is not known".into());
        }
        if self.uids.is_some() && place.container.is_some() {
            // A number may be another user's there.
            return Verdict::Unknown("it comes from a container, whose users are not the host's".into());
        }
        if self.remote == Some(true) {
            return Verdict::NotMet("it comes from this host".into());
        }
        if self.uids.as_ref().is_some_and(|uids| !uids.contains(&evidence.process.uid)) {
            return Verdict::NotMet("it comes from another user".into());
        }
        if self
            .units
            .as_ref()
            .is_some_and(|units| !place.unit.as_ref().is_some_and(|unit| units.contains(unit)))
        {
            return Verdict::NotMet("it comes from another unit".into());
        }
        Verdict::Met
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |names: Vec<String>| names.join(", ");
        let uids = self
            .uids
            .as_ref()
            .map(|uids| format!("uid [{}]", joined(uids.iter().map(ToString::to_string).collect())));
        let units = self
            .units
            .as_ref()
            .map(|units| format!("unit [{}]", joined(units.iter().map(ToString::to_string).collect())));
        let remote = self.remote.map(|remote| if remote { "another host" } else { "this host" }.to_owned());
        f.write_str(&uids.into_iter().chain(units).chain(remote).collect::<Vec<_>>().join(", "))
    }
}
