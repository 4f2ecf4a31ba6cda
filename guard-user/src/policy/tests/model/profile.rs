//! Random profiles, and what they leave of an answer.

use proptest::prelude::*;

use super::*;

/// Those that a policy may define.
pub(super) const PROFILES: [&str; 2] = ["p0", "p1"];

#[derive(Debug, Clone)]
pub(super) struct Profile {
    server: Option<usize>,
    patterns: Option<Vec<usize>>,
    tools: Option<Vec<usize>>,
    resources: Option<Vec<usize>>,
    max_risk: Option<u8>,
    /// Patterns of what its velocity rules count.
    limits: Vec<usize>,
}

pub(super) fn profile() -> impl Strategy<Value = Profile> {
    let some = |count: usize| {
        proptest::option::weighted(
            0.4,
            proptest::sample::subsequence((0..count).collect::<Vec<_>>(), 1..=count),
        )
    };
    (
        proptest::option::weighted(0.3, 0..2_usize),
        some(PATTERNS.len()),
        some(TOOLS.len()),
        some(RESOURCES.len()),
        proptest::option::weighted(0.3, prop_oneof![Just(0), Just(60), Just(100)]),
        proptest::sample::subsequence((0..PATTERNS.len()).collect::<Vec<_>>(), 0..3),
    )
        .prop_map(|(server, patterns, tools, resources, max_risk, limits)| Profile {
            server,
            patterns,
            tools,
            resources,
            max_risk,
            limits,
        })
}

pub(super) fn of(call: &Call) -> Option<ProfileName> {
    let names = [None, Some(DEFAULT_PROFILE), Some(PROFILES[0]), Some(PROFILES[1])];
    names[call.profile].map(|name| ProfileName::parse(name).unwrap())
}

fn text_covers(wide: &str, narrow: &str) -> bool {
    wide == narrow
        || wide.strip_suffix('*').is_some_and(|prefix| narrow.trim_end_matches('*').starts_with(prefix))
}

impl Profile {
    /// What the loader refuses is not part of the model: targets that no intent names, and a profile without a list.
    pub(super) fn settle(&mut self, intents: &[Vec<Matcher>]) {
        let all = || intents.iter().flatten();
        let names_tool =
            |tool: &usize| all().any(|m| matches!(m, Matcher::Tool { tool: named, .. } if named == tool));
        let names_resource = |index: &usize| {
            all().any(|m| match m {
                Matcher::Resource { resource, .. } => {
                    let (own, other) = (RESOURCES[*index], RESOURCES[*resource]);
                    text_covers(own, other) || text_covers(other, own)
                }
                _ => false,
            })
        };
        self.tools.iter_mut().for_each(|tools| tools.retain(names_tool));
        self.resources.iter_mut().for_each(|resources| resources.retain(names_resource));
        self.tools = self.tools.take().filter(|tools| !tools.is_empty());
        self.resources = self.resources.take().filter(|resources| !resources.is_empty());
        if self.server.is_none()
            && self.patterns.is_none()
            && self.tools.is_none()
            && self.resources.is_none()
            && self.max_risk.is_none()
            && self.limits.is_empty()
        {
            self.server = Some(0);
        }
    }

    pub(super) fn yaml(&self, name: &str) -> String {
        let list = |key: &str, of: &[&str], picked: &Option<Vec<usize>>| {
            let picked = picked.as_ref()?;
            let names: Vec<_> = picked.iter().map(|index| format!("'{}'", of[*index])).collect();
            Some(format!("{key}: [{}]", names.join(", ")))
        };
        let keys = [
            list("servers", &SERVERS, &self.server.map(|server| vec![server])),
            list("intents", &PATTERNS, &self.patterns),
            list("tools", &TOOLS, &self.tools),
            list("resources", &RESOURCES, &self.resources),
            self.max_risk.map(|max| format!("max_risk: {max}")),
            self.limits(),
        ];
        format!("  {name}: {{{}}}\n", keys.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }

    fn limits(&self) -> Option<String> {
        let limit = |pattern: &usize| {
            format!("{{intent: '{}', window: 1m, max_calls: 5, exceeded_action: deny}}", PATTERNS[*pattern])
        };
        let limits: Vec<_> = self.limits.iter().map(limit).collect();
        (!limits.is_empty()).then(|| format!("limits: [{}]", limits.join(", ")))
    }

    fn admits_intents(&self, server: usize, intents: &[usize]) -> bool {
        let is_meant =
            |intent: &usize, patterns: &[usize]| patterns.iter().any(|p| matches(*p, INTENTS[*intent]));
        self.server.is_none_or(|only| only == server)
            && self
                .patterns
                .as_ref()
                .is_none_or(|patterns| intents.iter().all(|intent| is_meant(intent, patterns)))
    }

    /// Of a call with these intents.
    pub(super) fn admits(&self, call: &Call, intents: &[usize]) -> bool {
        let is_listed = (self.tools.is_none() && self.resources.is_none())
            || match call.target {
                Called::Tool(tool) => self.tools.as_ref().is_some_and(|tools| tools.contains(&tool)),
                Called::Uri(uri) => self.resources.iter().flatten().any(|resource| {
                    let matcher = Matcher::Resource { server: call.server, resource: *resource };
                    matcher.covers(&Call { target: Called::Uri(uri), ..call.clone() })
                }),
                Called::Method(_) => false,
            };
        is_listed && self.admits_intents(call.server, intents)
    }

    /// Whether something that `model` grants is left.
    pub(super) fn leaves(&self, model: &Model, agent: usize, server: usize) -> bool {
        let may_pass = |intent: usize| {
            let rules = model.rules_for(agent, intent);
            let is_shut = rules.iter().any(|rule| rule.choice() == "deny" && rule.conditions.is_empty());
            !is_shut && rules.iter().any(|rule| rule.opens())
        };
        let targets = model.intents.iter().flatten().filter(|matcher| matcher.place().0 == server);
        targets.into_iter().any(|target| {
            let means =
                |intent: &usize| model.intents[*intent].iter().any(|matcher| matcher.takes_in(target));
            let intents: Vec<_> = (0..INTENTS.len()).filter(means).collect();
            let (always, sometimes): (Vec<_>, Vec<_>) = intents.iter().copied().partition(|intent| {
                model.intents[*intent].iter().all(|m| !m.takes_in(target) || m.when().is_empty())
            });
            let is_listed = (self.tools.is_none() && self.resources.is_none())
                || match target {
                    Matcher::Tool { tool, .. } => {
                        self.tools.as_ref().is_some_and(|tools| tools.contains(tool))
                    }
                    Matcher::Resource { resource, .. } => self.resources.iter().flatten().any(|own| {
                        let (own, other) = (RESOURCES[*own], RESOURCES[*resource]);
                        text_covers(own, other) || text_covers(other, own)
                    }),
                    Matcher::Method { .. } => false,
                };
            intents.iter().any(|intent| may_pass(*intent))
                && is_listed
                && self.admits_intents(server, &always)
                && (!always.is_empty() || sometimes.iter().any(|one| self.admits_intents(server, &[*one])))
        })
    }
}

impl Matcher {
    /// Whether it is about all that `other` is about.
    fn takes_in(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tool { server, tool, .. }, Self::Tool { server: there, tool: named, .. }) => {
                server == there && tool == named
            }
            (Self::Resource { server, resource }, Self::Resource { server: there, resource: named }) => {
                server == there && text_covers(RESOURCES[*resource], RESOURCES[*named])
            }
            (Self::Method { server, method }, Self::Method { server: there, method: named }) => {
                server == there && text_covers(METHOD_PATTERNS[*method], METHOD_PATTERNS[*named])
            }
            _ => false,
        }
    }
}

impl Model {
    /// What the profile leaves of what the rules say.
    pub(super) fn narrow(&self, call: &Call, answer: Answer) -> Answer {
        let denied = Answer::Deny(DenyCode::ProfileDenies, false);
        // None, `default`, and the two that may be there.
        let Some(index) = call.profile.checked_sub(2) else { return answer };
        if matches!(answer, Answer::Deny(..)) || self.profiles.is_empty() {
            return answer;
        }
        let Some(profile) = self.profiles.get(index) else { return denied };
        let mut intents = self.targeted(call);
        intents.retain(|intent| self.means(*intent, call) == Some(true));
        let is_needed = matches!(call.target, Called::Method(method) if METHODS[method] == "ping");
        let is_left = if intents.is_empty() || is_needed {
            profile.leaves(self, call.agent, call.server)
        } else {
            profile.admits(call, &intents)
        };
        let is_judged = !intents.is_empty() && !is_needed;
        if !is_left || (is_judged && self.is_too_risky(call)) {
            return denied;
        }
        let counts = |pattern: &&usize| intents.iter().any(|intent| matches(**pattern, INTENTS[*intent]));
        let counted = if is_judged { profile.limits.iter().filter(counts).count() } else { 0 };
        match answer {
            Answer::Allow(count) => Answer::Allow(count + counted),
            Answer::Hold(count) => Answer::Hold(count + counted),
            deny @ Answer::Deny(..) => deny,
        }
    }

    /// Whether it is above the ceiling of its profile, or nobody can tell.
    pub(super) fn is_too_risky(&self, call: &Call) -> bool {
        let profile = call.profile.checked_sub(2).and_then(|index| self.profiles.get(index));
        let max = profile.and_then(|profile| profile.max_risk);
        max.is_some_and(|max| call.risk.is_none_or(|risk| risk > max))
    }
}
