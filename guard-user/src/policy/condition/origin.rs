//! Where a call comes from, as the kernel tells it, and for whom, as its agent's token does.

use std::fmt;
use std::sync::Arc;

use super::{Texts, Verdict};
use crate::kernel::{Client, Unit};
use crate::policy::Circumstances;
use crate::policy::fact::Judging;
use crate::types::UserName;

/// Where a rule applies. All that is named must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) struct Origin {
    /// Users of this host, by their numbers.
    pub uids: Option<Vec<u32>>,
    pub units: Option<Vec<Unit>>,
    /// From another host, or not.
    pub remote: Option<bool>,
    /// For one of these.
    pub users: Option<Users>,
    /// For one who is none of these.
    pub not_users: Option<Users>,
}

/// Users of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) struct Users {
    names: Arc<Texts>,
    /// As written, for messages.
    shown: Arc<str>,
}

impl Users {
    pub(in crate::policy) fn new(names: &[UserName]) -> Self {
        /// A longer list helps no reader of a refusal.
        const SHOWN_MAX: usize = 8;
        let each = names.iter().map(UserName::as_str);
        let mut shown = each.clone().take(SHOWN_MAX).collect::<Vec<_>>().join(", ");
        if names.len() > SHOWN_MAX {
            shown += ", ...";
        }
        Self { names: Arc::new(Texts::new(each)), shown: shown.into() }
    }
}

impl Origin {
    pub(in crate::policy) fn judge(&self, around: &Circumstances<'_>, judging: Judging) -> Verdict {
        let process = if self.uids.is_some() || self.units.is_some() || self.remote.is_some() {
            self.judge_client(around.client)
        } else {
            Verdict::Met
        };
        match (process, self.judge_user(around.user, judging)) {
            // What nobody can say weighs more than what is not met.
            (unknown @ Verdict::Unknown(_), _) | (_, unknown @ Verdict::Unknown(_)) => unknown,
            (Verdict::Met, user) => user,
            (not_met, _) => not_met,
        }
    }

    /// Of a call for nobody a rule that allows for somebody says nothing. One that restricts cannot be judged: whoever would be
    /// refused would leave his name out.
    fn judge_user(&self, user: Option<&UserName>, judging: Judging) -> Verdict {
        if self.users.is_none() && self.not_users.is_none() {
            return Verdict::Met;
        }
        let Some(user) = user else {
            let words = "the caller's token names no user";
            return match judging {
                Judging::Each => Verdict::NotMet(words.into()),
                Judging::Any => Verdict::Unknown(words.into()),
            };
        };
        for (users, is_to_be) in [(&self.users, true), (&self.not_users, false)] {
            let Some(users) = users else { continue };
            match users.names.has(user.as_str()) {
                Ok(is_listed) if is_listed == is_to_be => {}
                Ok(true) => return Verdict::NotMet(format!("its user is one of {}", users.shown)),
                Ok(false) => return Verdict::NotMet(format!("its user is none of {}", users.shown)),
                Err(why) => {
                    return Verdict::Unknown(format!("who its user is cannot be told: the name {why}"));
                }
            }
        }
        Verdict::Met
    }

    fn judge_client(&self, client: Option<&Client>) -> Verdict {
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
        let users = self.users.as_ref().map(|users| format!("user_in [{}]", users.shown));
        let not_users = self.not_users.as_ref().map(|users| format!("user_not_in [{}]", users.shown));
        let all = uids.into_iter().chain(units).chain(remote).chain(users).chain(not_users);
        f.write_str(&all.collect::<Vec<_>>().join(", "))
    }
}
