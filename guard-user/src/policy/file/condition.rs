//! Conditions of rules, as they stand in a policy file.

use std::sync::Arc;

use serde_json::Number;

use super::session::{IN_SESSION, OF_SESSION};
use super::{At, Choice, File};
use crate::config::problem::suggest;
use crate::config::yaml::{Node, Value};
use crate::kernel::Unit;
use crate::policy::condition::{Clock, Days, Entries, Hours, Origin, SessionTest, Times, Users, Zone};
use crate::policy::fact::{Bound, Measure};
use crate::risk::SCORE_MAX;
use crate::types::{LabelName, UserName};

/// The most entries of a condition's list.
pub const CONDITION_ENTRIES_MAX: usize = 10_000;

/// A condition that is not bound to a target yet.
#[derive(Debug, Clone)]
pub(in crate::policy) enum Clause {
    Fact {
        fact: Arc<str>,
        asked: Asked,
    },
    Times(Arc<Times>),
    Origin(Arc<Origin>),
    /// Of the call's score.
    Risk(Bound, u8),
    Mark(MarkClause),
    Session(SessionTest),
}

/// What is asked of how confidential the data was that has been read.
#[derive(Debug, Clone)]
pub(in crate::policy) struct MarkClause {
    pub asked: AskedMark,
    /// Labels.
    pub names: Vec<At<LabelName>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum AskedMark {
    Max,
    Above,
    In,
    NotIn,
}

/// What is asked of a fact.
#[derive(Debug, Clone)]
pub(in crate::policy) enum Asked {
    Bound(Bound, Number),
    Listed {
        entries: Entries,
        /// Whether what is listed fits, or what is not.
        fits: bool,
        /// Where each entry stands.
        places: Arc<[super::Place]>,
    },
    /// Whether a flag is just this.
    Is(bool),
}

const BOUNDS: [(&str, Bound); 4] =
    [("max_", Bound::Max), ("min_", Bound::Min), ("above_", Bound::Above), ("below_", Bound::Below)];
/// The longer one first: each ends with the other.
const LISTS: [(&str, bool); 2] = [("_not_in", false), ("_in", true)];
const IS: &str = "_is";
/// The score of a call, which no fact may be called.
pub(super) const RISK: &str = "risk";
pub(super) const OF_TIME: [&str; 3] = ["time_of_day", "weekdays", "zone"];
const SOURCE: &str = "source";
const OF_MARK: [(&str, AskedMark); 4] = [
    ("max_mark", AskedMark::Max),
    ("above_mark", AskedMark::Above),
    ("mark_in", AskedMark::In),
    ("mark_not_in", AskedMark::NotIn),
];
/// What a fact cannot be called: its conditions would be those of the mark.
pub(super) const MARK: &str = "mark";

impl Clause {
    /// The condition's key for this fact.
    pub(in crate::policy) fn key(&self, fact: &str) -> String {
        match self {
            Self::Fact { asked: Asked::Bound(bound, _), .. } => format!("{}{fact}", bound.prefix()),
            Self::Fact { asked: Asked::Listed { fits: true, .. }, .. } => format!("{fact}_in"),
            Self::Fact { asked: Asked::Listed { .. }, .. } => format!("{fact}_not_in"),
            Self::Fact { asked: Asked::Is(_), .. } => format!("{fact}{IS}"),
            Self::Risk(bound, _) => format!("{}{RISK}", bound.prefix()),
            Self::Times(_) => "time_of_day".into(),
            Self::Origin(_) => SOURCE.into(),
            Self::Mark(mark) => mark.asked.key().into(),
            Self::Session(_) => IN_SESSION.into(),
        }
    }
}

impl AskedMark {
    pub(in crate::policy) fn key(self) -> &'static str {
        OF_MARK.iter().find(|(_, asked)| *asked == self).map_or("", |(key, _)| key)
    }
}

impl Asked {
    /// Measures that it can be asked of, as a hint names them.
    pub(in crate::policy) fn wants(&self) -> &'static str {
        match self {
            Self::Bound(..) => "a number or a count",
            Self::Listed { .. } => "a text, domains or a path",
            Self::Is(_) => "a flag",
        }
    }

    pub(in crate::policy) fn fits(&self, measure: Measure) -> bool {
        match self {
            Self::Bound(..) => measure.is_number(),
            Self::Listed { .. } => !measure.is_number() && measure != Measure::Flag,
            Self::Is(_) => measure == Measure::Flag,
        }
    }
}

impl Bound {
    pub(in crate::policy) fn prefix(self) -> &'static str {
        BOUNDS.iter().find(|(_, bound)| *bound == self).map_or("", |(prefix, _)| prefix)
    }
}

impl File<'_> {
    pub(super) fn conditions(&mut self, node: &Node, decision: Option<Choice>) -> Vec<At<Clause>> {
        self.clauses(node, "conditions", &[], decision)
    }

    pub(super) fn clauses(
        &mut self,
        node: &Node,
        what: &'static str,
        but: &[&str],
        decision: Option<Choice>,
    ) -> Vec<At<Clause>> {
        let entries = self.reader.entries(node, what).unwrap_or_default();
        if entries.is_empty() && matches!(node.value, Value::Map(_)) {
            self.reader.problem(
                node,
                format!("{what} is empty"),
                Some("name at least one, or remove the key".into()),
            );
        }
        let find = |name: &str| entries.iter().find(|(_, key, _)| *key == name).copied();
        let mut clauses: Vec<_> = self.times(OF_TIME.map(find)).into_iter().collect();
        for (key, name, value) in &entries {
            if OF_TIME.contains(name) || but.contains(name) {
                continue;
            }
            let of_mark = OF_MARK.iter().find(|(key, _)| key == name);
            let clause = if *name == SOURCE {
                self.origin(value).map(|origin| Clause::Origin(Arc::new(origin)))
            } else if *name == IN_SESSION {
                self.in_session(value)
            } else if let Some((_, asked)) = of_mark {
                self.mark(key, value, *asked, decision)
            } else {
                self.fact_condition(key, name, value, decision)
            };
            clauses.extend(clause.map(|clause| self.at(key, clause)));
        }
        clauses
    }

    fn fact_condition(
        &mut self,
        key: &Node,
        name: &str,
        value: &Node,
        decision: Option<Choice>,
    ) -> Option<Clause> {
        let bound = BOUNDS.iter().find_map(|(prefix, bound)| Some((*bound, name.strip_prefix(prefix)?)));
        let list = LISTS.iter().find_map(|(suffix, fits)| Some((*fits, name.strip_suffix(suffix)?)));
        let is_list = matches!(value.value, Value::List(_));
        match (bound, list) {
            (Some((bound, fact)), list) if !fact.is_empty() && (list.is_none() || !is_list) => {
                let Value::Number(limit) = &value.value else {
                    let what = format!("{name} must be a number, this is {}", value.value.kind());
                    self.reader.problem(value, what, None);
                    return None;
                };
                // Elsewhere it is what may be at most, and here it would be what may not.
                if bound == Bound::Max && decision == Some(Choice::Deny) {
                    let what = format!("{name} on a deny rule would deny what is at most {limit}");
                    let above = Bound::Above.prefix();
                    let hint = format!("write `{above}{fact}: {limit}` to deny what is more");
                    self.reader.problem(key, what, Some(hint));
                    return None;
                }
                if fact == RISK {
                    return self.risk_bound(value, name, bound);
                }
                if OF_SESSION.contains(&fact) {
                    return self.session_bound(value, name, (bound, fact));
                }
                Some(Clause::Fact { fact: fact.into(), asked: Asked::Bound(bound, limit.clone()) })
            }
            (None, list) if list.map(|(_, fact)| fact) == Some(RISK) || name == "risk_is" || name == RISK => {
                let hint = "write `min_risk: 70`, `above_risk`, `max_risk` or `below_risk`";
                self.reader.problem(
                    key,
                    format!("{name}: the risk of a call is a number"),
                    Some(hint.into()),
                );
                None
            }
            (None, None) if name.strip_suffix(IS).is_some_and(|fact| !fact.is_empty()) => {
                let Value::Bool(is) = value.value else {
                    let what = format!("{name} must be true or false, this is {}", value.value.kind());
                    self.reader.problem(value, what, None);
                    return None;
                };
                let fact = name.strip_suffix(IS).unwrap_or(name);
                Some(Clause::Fact { fact: fact.into(), asked: Asked::Is(is) })
            }
            (_, Some((fits, fact))) if !fact.is_empty() => {
                let nodes = self.reader.list(value, name)?;
                if nodes.len() > CONDITION_ENTRIES_MAX {
                    let what = format!("{name} has more than {CONDITION_ENTRIES_MAX} entries");
                    self.reader.problem(value, what, None);
                    return None;
                }
                let texts: Vec<_> =
                    nodes.iter().map(|node| self.reader.text(node, &format!("an entry of {name}"))).collect();
                let texts: Vec<_> = texts.into_iter().collect::<Option<_>>()?;
                let places = nodes.iter().map(|node| self.place(node)).collect();
                let asked = Asked::Listed { entries: Entries::new(&texts), fits, places };
                Some(Clause::Fact { fact: fact.into(), asked })
            }
            _ => {
                let hint = suggest(
                    name,
                    OF_TIME.into_iter().chain([SOURCE, IN_SESSION]).chain(OF_MARK.map(|(key, _)| key)),
                )
                .filter(|hint| hint.starts_with("did"))
                .unwrap_or_else(|| {
                    let is_bare = bound.map(|(_, fact)| fact).or(list.map(|(_, fact)| fact)) == Some("");
                    let fact = if is_bare { "amount" } else { name };
                    format!("write for example `max_{fact}: 10` or `{fact}_in: [a, b]`, with a fact's name")
                });
                self.reader.problem(key, format!("unknown condition {name:?}"), Some(hint));
                None
            }
        }
    }

    fn risk_bound(&mut self, value: &Node, name: &str, bound: Bound) -> Option<Clause> {
        self.score(value, name).map(|limit| Clause::Risk(bound, limit))
    }

    pub(super) fn score(&mut self, value: &Node, name: &str) -> Option<u8> {
        let number = if let Value::Number(number) = &value.value { number.as_u64() } else { None };
        let limit = number.and_then(|limit| u8::try_from(limit).ok()).filter(|limit| *limit <= SCORE_MAX);
        if limit.is_none() {
            let what = format!("{name} must be a whole number from 0 to {SCORE_MAX}");
            self.reader.problem(value, what, None);
        }
        limit
    }

    /// `max_mark: internal`, `mark_in: [public, internal]`
    fn mark(
        &mut self,
        key: &Node,
        value: &Node,
        asked: AskedMark,
        decision: Option<Choice>,
    ) -> Option<Clause> {
        let name = asked.key();
        if asked == AskedMark::Max && decision == Some(Choice::Deny) {
            let hint = "write `above_mark: ...` to deny those who have read more";
            self.reader.problem(
                key,
                "max_mark on a deny rule would deny those who have read less",
                Some(hint.into()),
            );
            return None;
        }
        let names = match asked {
            AskedMark::In | AskedMark::NotIn => {
                let nodes = self.reader.list(value, name)?.len();
                Some(self.names(value, name, LabelName::parse)).filter(|names| names.len() == nodes)?
            }
            AskedMark::Max | AskedMark::Above => {
                let label = self.reader.name(value, name, LabelName::parse)?;
                vec![self.at(value, label)]
            }
        };
        Some(Clause::Mark(MarkClause { asked, names }))
    }

    /// `time_of_day: {from: "08:00", to: "18:00"}`, `weekdays: [mon, fri]` and their `zone`.
    pub(super) fn times(
        &mut self,
        [hours, days, zone]: [Option<(&Node, &str, &Node)>; 3],
    ) -> Option<At<Clause>> {
        let Some((key, name, _)) = hours.or(days) else {
            if let Some((key, ..)) = zone {
                let hint = "add `time_of_day` or `weekdays`, or remove it";
                self.reader.problem(key, "a zone is of no use by itself", Some(hint.into()));
            }
            return None;
        };
        let zone = if let Some((.., node)) = zone {
            self.zone(node)
        } else {
            let hint = "add `zone: UTC`, a region such as `zone: Europe/Berlin`, or a distance from UTC such as `zone: \"+02:00\"`";
            self.reader.problem(key, format!("{name} has no zone"), Some(hint.into()));
            None
        };
        let hours = hours.map(|(.., node)| self.hours(node));
        let days = days.map(|(.., node)| self.days(node));
        let times = Times { hours: flat(hours)?, days: flat(days)?, zone: zone? };
        Some(self.at(key, Clause::Times(Arc::new(times))))
    }

    fn hours(&mut self, node: &Node) -> Option<Hours> {
        let fields = self.reader.fields(node, "time_of_day", &["from", "to"])?;
        let (from, to) = (fields.required("from", &mut self.reader), fields.required("to", &mut self.reader));
        let (from, to) = (self.clock(from?, "from"), self.clock(to?, "to"));
        let hours = Hours::new(from?, to?);
        if hours.is_none() {
            let hint =
                "from is the first minute and to the first one after it; leave time_of_day out for all day";
            self.reader.problem(node, "time_of_day is no part of the day", Some(hint.into()));
        }
        hours
    }

    fn clock(&mut self, node: &Node, what: &str) -> Option<Clock> {
        let text = self.reader.text(node, what)?;
        let clock = Clock::parse(text);
        if clock.is_none() {
            let hint = "write hours and minutes with two digits each, such as \"08:00\"";
            self.reader.problem(node, format!("{what} {text:?} is no time of the day"), Some(hint.into()));
        }
        clock
    }

    fn days(&mut self, node: &Node) -> Option<Days> {
        let mut days = Days::default();
        let mut is_whole = true;
        for node in self.reader.list(node, "weekdays")? {
            match self.reader.choice(node, "weekdays", &Days::NAMES) {
                Some(day) => days.add(day),
                None => is_whole = false,
            }
        }
        is_whole.then_some(days)
    }

    fn zone(&mut self, node: &Node) -> Option<Zone> {
        let text = self.reader.text(node, "zone")?;
        let zone = Zone::parse(text);
        if zone.is_none() {
            let known = Zone::known();
            let meant =
                suggest(text, known.iter().map(String::as_str)).filter(|hint| hint.starts_with("did"));
            let hint = meant.unwrap_or_else(|| {
                "write a region such as Europe/Berlin, UTC, or the distance from it in quotes, such as \"+02:00\"".into()
            });
            self.reader.problem(node, format!("zone {text:?} is none that is known"), Some(hint));
        }
        zone
    }

    /// `source: {uid: [1000], unit: [agent.service], remote: false, user_in: [alice@corp.example]}`
    fn origin(&mut self, node: &Node) -> Option<Origin> {
        let keys = ["uid", "unit", "remote", "user_in", "user_not_in"];
        let fields = self.reader.fields(node, "a source", &keys)?;
        if keys.iter().all(|key| fields.optional(key).is_none()) {
            let hint = "name what it must be, such as `{unit: [agent.service]}`, or remove the key";
            self.reader.problem(node, "source asks for nothing", Some(hint.into()));
            return None;
        }
        let uids = fields.optional("uid").map(|node| self.each(node, "uid", Self::uid));
        let units = fields.optional("unit").map(|node| self.each(node, "unit", Self::unit));
        let remote = fields.optional("remote").map(|node| {
            let Value::Bool(remote) = node.value else {
                let what = format!("remote must be true or false, this is {}", node.value.kind());
                self.reader.problem(node, what, None);
                return None;
            };
            Some(remote)
        });
        let [listed, unlisted] =
            ["user_in", "user_not_in"].map(|key| fields.optional(key).map(|node| self.users(node, key)));
        let (users, not_users) = (flat(listed)?, flat(unlisted)?);
        let origin =
            Origin { uids: flat(uids)?, units: flat(units)?, remote: flat(remote)?, users, not_users };
        if origin.remote == Some(true) && (origin.uids.is_some() || origin.units.is_some()) {
            let what = "what comes from another host has no uid and no unit here";
            self.reader.problem(node, what, Some("write a rule for each".into()));
            return None;
        }
        Some(origin)
    }

    fn users(&mut self, node: &Node, key: &str) -> Option<Users> {
        let names = self.each(node, key, |file, node| {
            let text = file.reader.text(node, "a user")?;
            let user = UserName::parse(text);
            user.map_err(|error| file.reader.problem(node, format!("user {text:?}: {error}"), None)).ok()
        })?;
        if names.is_empty() || names.len() > CONDITION_ENTRIES_MAX {
            let what = format!("{key} has 1 to {CONDITION_ENTRIES_MAX} users");
            self.reader.problem(node, what, Some("name some, or remove the key".into()));
            return None;
        }
        Some(Users::new(&names))
    }

    fn each<T>(
        &mut self,
        node: &Node,
        what: &str,
        read: impl Fn(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        let read: Vec<_> = self.reader.list(node, what)?.iter().map(|node| read(self, node)).collect();
        read.into_iter().collect()
    }

    fn uid(&mut self, node: &Node) -> Option<u32> {
        let number = if let Value::Number(number) = &node.value { number.as_u64() } else { None };
        // The last one is `(uid_t) -1`, and nobody's.
        let uid = number.and_then(|uid| u32::try_from(uid).ok()).filter(|uid| *uid != u32::MAX);
        if uid.is_none() {
            let hint = "write the number that `id -u NAME` prints";
            self.reader.problem(node, "a uid is a whole number below 4294967295", Some(hint.into()));
        }
        uid
    }

    fn unit(&mut self, node: &Node) -> Option<Unit> {
        let text = self.reader.text(node, "unit")?;
        Unit::parse(text)
            .map_err(|error| self.reader.problem(node, format!("unit {text:?}: {error}"), None))
            .ok()
    }
}

/// What is there and wrong is told already.
#[expect(
    clippy::option_option,
    reason = "the outer one is whether it is there, the inner one whether it was read"
)]
pub(super) fn flat<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(None) => None,
        Some(Some(value)) => Some(Some(value)),
        None => Some(None),
    }
}
