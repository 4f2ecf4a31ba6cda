//! Velocity rules, as they stand in a policy file.

use std::sync::Arc;

use super::{At, File, Place};
use crate::config::reader::Fields;
use crate::config::yaml::{Node, Value};
use crate::policy::rule::{ExceededAction, IntentPattern, Measure, Part, Per, RuleName};
use crate::types::{AgentName, ProfileName, ServerName};

/// The longest velocity window: 31 days.
pub const WINDOW_SECONDS_MAX: u64 = 31 * 24 * 3600;
/// The most that one velocity rule lets pass within a window, in calls or in what they cost.
pub const VELOCITY_MAX: u64 = 1_000_000_000;
/// The most that one call costs.
pub const VELOCITY_WEIGHT_MAX: u64 = 1_000_000;

/// All limits of one rule.
#[derive(Debug)]
pub(in crate::policy) struct Velocity {
    pub name: RuleName,
    pub place: Place,
    pub agent: Option<At<AgentName>>,
    pub server: Option<At<ServerName>>,
    pub tool: Option<At<Box<str>>>,
    pub profile: Option<At<ProfileName>>,
    /// `None`: every intent.
    pub intent: Option<At<IntentPattern>>,
    pub per: Per,
    /// `None`: all its limits are about calls under way.
    pub window_milliseconds: Option<u64>,
    pub limits: Vec<(Measure, u64)>,
    /// What a call with an intent costs, where that is not 1.
    pub costs: Vec<At<(IntentPattern, u32)>>,
    pub action: ExceededAction,
    pub reason: Option<Arc<str>>,
}

/// It is there, and what is wrong with it is told.
struct Unread;

/// Those that a velocity rule and a profile's limit have in common.
const KEYS: [&str; 12] = [
    "name",
    "server",
    "tool",
    "intent",
    "per",
    "window",
    "max_calls",
    "max_cost",
    "costs",
    "max_concurrent",
    "exceeded_action",
    "reason",
];

impl File<'_> {
    pub(super) fn velocity(&mut self, node: &Node) -> Option<Velocity> {
        let keys: Vec<_> = KEYS.into_iter().chain(["agent", "profile"]).collect();
        let fields = self.reader.fields(node, "a velocity rule", &keys)?;
        let agent =
            self.filter(&fields, "agent", |file, node| file.reader.name(node, "agent", AgentName::parse));
        let profile = self
            .filter(&fields, "profile", |file, node| file.reader.name(node, "profile", ProfileName::parse));
        self.counted(node, &fields, agent, profile)
    }

    /// One of a profile's limits, which is a velocity rule for callers in the profile.
    pub(super) fn limit_of(&mut self, profile: Option<&At<ProfileName>>, node: &Node) -> Option<Velocity> {
        let fields = self.reader.fields(node, "a profile's limit", &KEYS)?;
        // Without its name, the profile has told a mistake already.
        let profile = profile.map(|profile| Some(profile.clone())).ok_or(Unread);
        self.counted(node, &fields, Ok(None), profile)
    }

    fn counted(
        &mut self,
        node: &Node,
        fields: &Fields<'_>,
        agent: Result<Option<At<AgentName>>, Unread>,
        profile: Result<Option<At<ProfileName>>, Unread>,
    ) -> Option<Velocity> {
        let place = self.place(node);
        let name = self.rule_name(fields, &place);
        let server =
            self.filter(fields, "server", |file, node| file.reader.name(node, "server", ServerName::parse));
        let tool = self.filter(fields, "tool", Self::tool);
        let intent = match fields.optional("intent") {
            Some(node) => self.pattern(node).map(Some).ok_or(Unread),
            None => Ok(None),
        };
        let per = match fields.optional("per") {
            Some(node) => self.per(node),
            None => Some(Per::default()),
        };
        let limits = self.limits(node, fields);
        let window = self.span(node, fields, limits.as_deref());
        let costs = self.costs(fields, limits.as_deref());
        let action = fields.required("exceeded_action", &mut self.reader).and_then(|node| {
            let choices = [
                ("deny", ExceededAction::Deny),
                ("escalate", ExceededAction::Escalate),
                ("shadow", ExceededAction::Shadow),
            ];
            self.reader.choice(node, "exceeded_action", &choices)
        });
        let reason = self.reason(fields);
        Some(Velocity {
            name: name?,
            place,
            agent: agent.ok()?,
            server: server.ok()?,
            tool: tool.ok()?,
            profile: profile.ok()?,
            intent: intent.ok()?,
            per: per?,
            window_milliseconds: window.ok()?,
            limits: limits?,
            costs,
            action: action?,
            reason,
        })
    }

    /// What narrows a rule down.
    fn filter<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Result<Option<At<T>>, Unread> {
        let Some(node) = fields.optional(key) else { return Ok(None) };
        read(self, node).map(|value| Some(self.at(node, value))).ok_or(Unread)
    }

    fn tool(&mut self, node: &Node) -> Option<Box<str>> {
        let text = self.reader.text(node, "tool")?;
        if text.is_empty() || text.contains('*') {
            let hint = "name one tool; several are told apart from others by their intent";
            self.reader.problem(node, format!("tool {text:?} must be exact"), Some(hint.into()));
            return None;
        }
        Some(text.into())
    }

    /// `user`, or `[agent, tool]`
    fn per(&mut self, node: &Node) -> Option<Per> {
        let choices = Part::ALL.map(|part| (part.as_str(), part));
        let Value::List(items) = &node.value else {
            return self.reader.choice(node, "per", &choices).and_then(|part| Per::new(part, None));
        };
        let read = |file: &mut Self, node: &Node| file.reader.choice(node, "per", &choices);
        let per = match items.as_slice() {
            [one] => read(self, one).map(|part| Per::new(part, None)),
            [one, other] => {
                let (one, other) = (read(self, one), read(self, other));
                one.zip(other).map(|(one, other)| Per::new(one, Some(other)))
            }
            _ => Some(None),
        };
        let per = per?;
        if per.is_none() {
            let hint = "write for example `per: user` or `per: [agent, tool]`";
            self.reader.problem(node, "per names one or two different things", Some(hint.into()));
        }
        per
    }

    fn limits(&mut self, node: &Node, fields: &Fields<'_>) -> Option<Vec<(Measure, u64)>> {
        let keys = [
            ("max_calls", Measure::Calls),
            ("max_cost", Measure::Cost),
            ("max_concurrent", Measure::Concurrent),
        ];
        let named: Vec<_> =
            keys.iter().filter_map(|(key, measure)| Some((*key, *measure, fields.optional(key)?))).collect();
        if named.is_empty() {
            let hint = "add for example `max_calls: 100`; max_cost and max_concurrent are the others";
            self.reader.problem(node, "a velocity rule has no limit", Some(hint.into()));
            return None;
        }
        let read: Vec<_> = named
            .into_iter()
            .map(|(key, measure, node)| Some((measure, self.reader.count(node, key, VELOCITY_MAX)?)))
            .collect();
        read.into_iter().collect()
    }

    /// The window, where one is needed.
    fn span(
        &mut self,
        node: &Node,
        fields: &Fields<'_>,
        limits: Option<&[(Measure, u64)]>,
    ) -> Result<Option<u64>, Unread> {
        let needs_one =
            limits.is_none_or(|limits| limits.iter().any(|(measure, _)| *measure != Measure::Concurrent));
        match fields.optional("window") {
            Some(window) if !needs_one => {
                let hint = "remove `window`: what is under way counts until it has ended";
                self.reader.problem(
                    window,
                    "a rule with max_concurrent alone has no window",
                    Some(hint.into()),
                );
                Err(Unread)
            }
            Some(window) => self.window(window).map(Some).ok_or(Unread),
            // It may be one that needs none.
            None if !needs_one || limits.is_none() => Ok(None),
            None => {
                let hint = "add for example `window: 60s`";
                self.reader.problem(node, "a velocity rule has no \"window\"", Some(hint.into()));
                Err(Unread)
            }
        }
    }

    /// `{financial.refund.*: 10}`
    fn costs(
        &mut self,
        fields: &Fields<'_>,
        limits: Option<&[(Measure, u64)]>,
    ) -> Vec<At<(IntentPattern, u32)>> {
        let Some(node) = fields.optional("costs") else { return Vec::new() };
        let max = limits.into_iter().flatten().find(|(measure, _)| *measure == Measure::Cost);
        if limits.is_some() && max.is_none() {
            let hint = "add `max_cost`, or remove `costs`";
            self.reader.problem(node, "only a rule with max_cost has costs", Some(hint.into()));
        }
        let entries = self.reader.entries(node, "costs").unwrap_or_default();
        entries
            .into_iter()
            .filter_map(|(key, _, node)| {
                let pattern = self.pattern(key);
                let weight = self.reader.count(node, "a cost", VELOCITY_WEIGHT_MAX)?;
                if let Some((_, max)) = max
                    && weight > *max
                {
                    let what = format!("a call that costs {weight} would never pass: max_cost is {max}");
                    let hint = "raise max_cost, or deny the intent with a policy";
                    self.reader.problem(node, what, Some(hint.into()));
                }
                let weight = u32::try_from(weight).ok()?;
                pattern.map(|pattern| self.at(key, (pattern.value, weight)))
            })
            .collect()
    }

    /// `60s`, `5m`, `1h`, `7d`
    fn window(&mut self, node: &Node) -> Option<u64> {
        let hint = || Some("write a whole number and a unit: 60s, 5m, 1h, 7d".to_owned());
        let Value::Text(text) = &node.value else {
            self.reader.problem(
                node,
                format!("window must have a unit, this is {}", node.value.kind()),
                hint(),
            );
            return None;
        };
        let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 24 * 3600)];
        let seconds = units.iter().find_map(|(unit, seconds)| {
            let number = text.strip_suffix(unit)?;
            let is_digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            is_digits.then(|| number.parse::<u64>().ok()?.checked_mul(*seconds))?
        });
        match seconds {
            Some(seconds) if (1..=WINDOW_SECONDS_MAX).contains(&seconds) => Some(seconds * 1000),
            Some(_) => {
                self.reader.problem(node, format!("window {text:?} is not between 1s and 31d"), None);
                None
            }
            None => {
                self.reader.problem(node, format!("window {text:?} is not a span of time"), hint());
                None
            }
        }
    }
}
