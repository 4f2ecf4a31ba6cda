//! The names that profiles use, and the names of profiles.

use std::collections::{BTreeSet, HashMap};

use super::Check;
use crate::config::problem::suggest;
use crate::policy::DEFAULT_PROFILE;
use crate::policy::file::{At, Document, Matcher, Place};
use crate::policy::target::Key;
use crate::types::ProfileName;

impl<'d> Check<'d> {
    pub(super) fn profiles(&mut self, document: &'d Document) {
        let mut known: HashMap<&str, &Place> = HashMap::new();
        let matchers: Vec<_> = document.intents.iter().flat_map(|intent| &intent.matchers).collect();
        for profile in &document.profiles {
            let At { value: name, place } = &profile.name;
            if let Some(first) = known.insert(name.as_str(), place) {
                let what = format!("the profile {name} is already defined");
                self.problems.push(place.problem(what, Some(format!("see {}", first.short()))));
            }
            for server in profile.servers.iter().flatten() {
                self.server(server);
            }
            for intent in profile.intents.iter().flatten() {
                self.intent(intent);
            }
            for target in profile.targets.iter().flatten() {
                self.admitted(target, &matchers);
            }
        }
        if known.is_empty() {
            return;
        }
        for agent in &document.agents {
            for profile in agent.profiles.iter().map(ProfileName::as_str) {
                if profile != DEFAULT_PROFILE && !known.contains_key(profile) {
                    let what =
                        format!("{} has the profile {profile:?}, which is not defined", agent.name.value);
                    let hint = suggest(profile, known.keys().copied());
                    self.problems.push(agent.name.place.problem(what, hint));
                }
            }
        }
    }

    /// One that is described, or that an agent has.
    pub(super) fn profile(&mut self, profile: &At<ProfileName>, document: &Document) {
        let described = document.profiles.iter().map(|profile| &profile.name.value);
        let known: Vec<_> =
            described.chain(document.agents.iter().flat_map(|agent| &agent.profiles)).collect();
        if !known.contains(&&profile.value) {
            let what = format!("there is no profile {:?}", profile.value);
            let hint = suggest(profile.value.as_str(), known.into_iter().map(ProfileName::as_str));
            self.problems.push(profile.place.problem(what, hint));
        }
    }

    /// A slip would be an entry that admits nothing.
    fn admitted(&mut self, target: &At<Key>, matchers: &[&Matcher]) {
        let is_meant = |key: &Key| key.covers(&target.value) || target.value.covers(key);
        if matchers.iter().any(|matcher| is_meant(&matcher.key)) {
            return;
        }
        let (what, hint) = if let Key::Tool(tool) = &target.value {
            let name = |matcher: &&Matcher| match &matcher.key {
                Key::Tool(name) => Some(name.to_string()),
                _ => None,
            };
            let tools: BTreeSet<String> = matchers.iter().filter_map(name).collect();
            let hint = suggest(tool, tools.iter().map(String::as_str));
            (format!("no intent names the tool {tool:?}"), hint)
        } else {
            ("no matcher of an intent names this".to_owned(), Some("write it as a matcher does".into()))
        };
        self.problems.push(target.place.problem(what, hint));
    }
}
