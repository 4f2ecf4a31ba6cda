//! Profiles: what a caller leaves of its agent's rights. None adds anything, since a decision is made without it first.

use std::collections::{HashMap, HashSet};

use super::decide::RuleSet;
use super::decision::{Decision, Deny, DenyCode};
use super::file;
use super::meaning::Meant;
use super::rule::{IntentPattern, Meter};
use super::target::{Key, Targets};
use super::{DEFAULT_PROFILE, Question};
use crate::types::{IntentName, ProfileName, ServerName};

/// All profiles that the policy describes.
#[derive(Debug, Default)]
pub(super) struct Profiles(HashMap<ProfileName, Profile>);

#[derive(Debug)]
pub(super) struct Profile {
    /// Its place in what is worked out for each profile.
    index: usize,
    servers: Option<HashSet<ServerName>>,
    intents: Option<Vec<IntentPattern>>,
    targets: Option<Listed>,
    /// The highest score that a call may have.
    max_risk: Option<u8>,
}

/// The targets that a profile lists.
#[derive(Debug)]
struct Listed {
    keys: Vec<Key>,
    found: Targets<()>,
}

/// What a profile leaves of an agent's rights.
#[derive(Debug, Clone, Copy)]
pub(super) enum Narrowing<'p> {
    /// All of them.
    None,
    To(&'p Profile),
    /// Nothing: others are described and this one is not.
    All,
}

/// For each profile by its index, whether it admits something.
pub(super) type Admitted = Box<[bool]>;

impl Profiles {
    pub(super) fn new(written: &[file::Profile]) -> Self {
        let profiles = written.iter().enumerate().map(|(index, profile)| {
            let values =
                |list: &Vec<file::At<IntentPattern>>| list.iter().map(|at| at.value.clone()).collect();
            let keys = profile.targets.as_ref().map(|list| list.iter().map(|at| at.value.clone()).collect());
            let profile_of = Profile {
                index,
                servers: profile
                    .servers
                    .as_ref()
                    .map(|list| list.iter().map(|at| at.value.clone()).collect()),
                intents: profile.intents.as_ref().map(values),
                targets: keys.map(|keys: Vec<Key>| Listed {
                    found: Targets::new(keys.iter().map(|key| (key.clone(), ()))),
                    keys,
                }),
                max_risk: profile.max_risk,
            };
            (profile.name.value.clone(), profile_of)
        });
        Self(profiles.collect())
    }

    /// `None` asks what the agent's rules say by themselves.
    pub(super) fn narrowing(&self, name: Option<&ProfileName>) -> Narrowing<'_> {
        let Some(name) = name else { return Narrowing::None };
        match self.0.get(name) {
            Some(profile) => Narrowing::To(profile),
            None if self.0.is_empty() || name.as_str() == DEFAULT_PROFILE => Narrowing::None,
            None => Narrowing::All,
        }
    }

    /// Which profiles admit some call of a target with these intents.
    pub(super) fn admitting(&self, server: &ServerName, key: &Key, meant: &[Meant]) -> Admitted {
        let mut admitted = self.none();
        for profile in self.0.values() {
            if let Some(slot) = admitted.get_mut(profile.index) {
                *slot = profile.admits(server, key, meant);
            }
        }
        admitted
    }

    /// No profile admits anything.
    pub(super) fn none(&self) -> Admitted {
        vec![false; self.0.len()].into()
    }
}

impl Profile {
    /// Of a resource that stands for many, and of a target whose calls do not all mean the same, one is enough.
    fn admits(&self, server: &ServerName, key: &Key, meant: &[Meant]) -> bool {
        let (mut sometimes, mut always) = (meant.iter(), meant.iter().filter(|one| one.when.is_empty()));
        self.servers.as_ref().is_none_or(|servers| servers.contains(server))
            && always.all(|one| self.admits_intent(&one.intent))
            && sometimes.any(|one| self.admits_intent(&one.intent))
            && self
                .targets
                .as_ref()
                .is_none_or(|listed| listed.keys.iter().any(|own| own.covers(key) || key.covers(own)))
    }

    fn admits_intent(&self, intent: &IntentName) -> bool {
        let is_named =
            |patterns: &Vec<IntentPattern>| patterns.iter().any(|pattern| pattern.matches(intent.as_str()));
        self.intents.as_ref().is_none_or(is_named)
    }
}

impl Narrowing<'_> {
    /// Whether it admits what means this, as far as intents go.
    pub(super) fn admits_intent(self, intent: &IntentName) -> bool {
        match self {
            Self::None => true,
            Self::To(profile) => profile.admits_intent(intent),
            Self::All => false,
        }
    }

    /// Whether it admits what is asked, of which `rules` speak.
    pub(super) fn admits(self, rules: &RuleSet, question: &Question<'_>) -> bool {
        let Self::To(Profile { targets, .. }) = self else { return self.may_admit(&rules.admitted) };
        let is_listed = |listed: &Listed| listed.found.find(question.target, question.method).is_some();
        self.may_admit(&rules.admitted) && targets.as_ref().is_none_or(is_listed)
    }

    /// Why it leaves out a call with this score; `None`: it does not. Of a call without a score nobody can tell that it is low.
    pub(super) fn too_risky(self, risk: Option<u8>) -> Option<String> {
        let Self::To(Profile { max_risk: Some(max), .. }) = self else { return None };
        match risk {
            Some(score) if score <= *max => None,
            Some(score) => Some(format!("admits a risk of {max} at most, and this call has {score}")),
            None => Some(format!("admits a risk of {max} at most, and that of this call is not known")),
        }
    }

    /// Whether it admits some of what `admitted` was worked out for.
    pub(super) fn may_admit(self, admitted: &[bool]) -> bool {
        match self {
            Self::None => true,
            Self::To(profile) => admitted.get(profile.index) == Some(&true),
            Self::All => false,
        }
    }
}

/// The agent may, and its caller left that out; `why` is the profile's, if it is not what is asked.
pub(super) fn not_admitted(question: &Question<'_>, intents: &[IntentName], why: Option<String>) -> Decision {
    let profile = question.profile.map_or(DEFAULT_PROFILE, ProfileName::as_str);
    let reason = match (why, intents.first()) {
        (Some(why), _) => format!("the profile {profile} {why}"),
        (None, Some(intent)) => format!("the profile {profile} does not admit {intent} here"),
        (None, None) => format!("the profile {profile} admits nothing of the server {}", question.server),
    };
    Decision::Deny(Deny {
        code: DenyCode::ProfileDenies,
        rule: None,
        intent: intents.first().cloned(),
        intents: intents.into(),
        reason,
        is_hidden: false,
    })
}

/// `decision`, counted by the rules for all callers and for those in this profile.
pub(super) fn counted_in(mut decision: Decision, profile: Option<&ProfileName>) -> Decision {
    let meters = match &mut decision {
        Decision::Allow(allow) => &mut allow.velocity,
        Decision::Hold(hold) => &mut hold.velocity,
        Decision::Deny(_) => return decision,
    };
    let counts = |meter: &&Meter| meter.rule.counts_in(profile);
    if !meters.iter().all(|meter| counts(&meter)) {
        *meters = meters.iter().filter(counts).cloned().collect();
    }
    decision
}
