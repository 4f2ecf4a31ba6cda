//! Conditions of random rules, and what they say about random calls by tables: nothing of the policy's own code is used.

use jiff::Timestamp;
use proptest::prelude::*;

use super::super::*;

/// What one thing is to one entry of a list.
#[derive(Debug, Clone, Copy, PartialEq)]
enum To {
    In,
    Out,
    Unclear,
}
use To::{In, Out, Unclear};

/// The facts that have lists: the fact's name, two entries, and things that a call may name with what they are to each.
struct Listed {
    fact: &'static str,
    entries: [&'static str; 2],
    things: [(&'static str, [To; 2]); 6],
}

const LISTED: [Listed; 3] = [
    Listed {
        fact: "t",
        entries: ["aa", "bb"],
        things: [
            ("aa", [In, Out]),
            ("bb", [Out, In]),
            ("cc", [Out, Out]),
            ("AA", [Unclear, Out]),
            ("b\u{200b}b", [Out, Unclear]),
            ("", [Out, Out]),
        ],
    },
    Listed {
        fact: "d",
        entries: ["one.example", "*.two.example"],
        things: [
            ("x@ONE.example", [In, Out]),
            ("https://a.two.example/x", [Out, In]),
            ("x@two.example", [Out, Out]),
            ("x@one.example.evil.example", [Out, Out]),
            ("x@evil.example@one.example", [Unclear, Unclear]),
            ("'x@one.example' <x@evil.example>", [Unclear, Unclear]),
        ],
    },
    Listed {
        fact: "p",
        entries: ["/srv/a", "/etc"],
        things: [
            ("/srv/a/x", [In, Out]),
            ("/etc", [Out, In]),
            ("/srv/ab", [Out, Out]),
            ("/", [Out, Out]),
            ("/srv/a/../x", [Unclear, Unclear]),
            ("srv/a", [Unclear, Unclear]),
        ],
    },
];

#[derive(Debug, Clone)]
pub(super) enum Condition {
    /// `max_n`, `min_n`, `above_n`, `below_n`.
    Bound(usize, u8),
    /// Of which fact, which of its entries, and whether they fit.
    List { which: usize, entries: [bool; 2], fits: bool },
    /// Full hours, and whether they are on the first days of the week only.
    Hours { from: u8, to: u8, workdays: bool },
}

const BOUNDS: [&str; 4] = ["max", "min", "above", "below"];

/// What a call says about the facts, and when it comes.
#[derive(Debug, Clone)]
pub(super) enum Arguments {
    Absent,
    /// An object without any fact.
    Without,
    With {
        n: u8,
        things: [Vec<usize>; 3],
    },
}

/// Hours since the beginning of a Monday; `None`: nobody knows.
pub(super) type Moment = Option<u8>;

pub(super) fn condition() -> impl Strategy<Value = Condition> {
    let entries = prop_oneof![Just([true, false]), Just([false, true]), Just([true, true])];
    prop_oneof![
        3 => (0..4_usize, 0..4_u8).prop_map(|(bound, n)| Condition::Bound(bound, n)),
        3 => (0..3_usize, entries, any::<bool>())
            .prop_map(|(which, entries, fits)| Condition::List { which, entries, fits }),
        1 => (0..24_u8, 1..24_u8, any::<bool>())
            .prop_map(|(from, hours, workdays)| Condition::Hours { from, to: (from + hours) % 24, workdays }),
    ]
}

pub(super) fn arguments() -> impl Strategy<Value = Arguments> {
    let things = || proptest::collection::vec(0..6_usize, 0..3);
    prop_oneof![
        1 => Just(Arguments::Absent),
        1 => Just(Arguments::Without),
        6 => (0..6_u8, things(), things(), things())
            .prop_map(|(n, t, d, p)| Arguments::With { n, things: [t, d, p] }),
    ]
}

pub(super) fn moment() -> impl Strategy<Value = Moment> {
    proptest::option::weighted(0.9, 0..168_u8)
}

impl Condition {
    pub(super) fn needs_fact(&self) -> bool {
        !matches!(self, Self::Hours { .. })
    }

    /// What the loader takes for this decision.
    pub(super) fn suits(&self, decision: &str) -> bool {
        decision != "deny" || !matches!(self, Self::Bound(0, _))
    }

    pub(super) fn yaml(&self) -> String {
        match self {
            Self::Bound(bound, n) => format!("{}_n: {n}", BOUNDS[*bound]),
            Self::List { which, entries, fits } => {
                let Listed { fact, entries: known, .. } = &LISTED[*which];
                let named: Vec<_> = known
                    .iter()
                    .zip(entries)
                    .filter(|(_, is_named)| **is_named)
                    .map(|(e, _)| format!("'{e}'"))
                    .collect();
                format!("{fact}_{}: [{}]", if *fits { "in" } else { "not_in" }, named.join(", "))
            }
            Self::Hours { from, to, workdays } => {
                let days = if *workdays { ", weekdays: [mon, tue, wed, thu, fri]" } else { "" };
                // `to` is midnight from the other side.
                let to = if *to == 0 { 24 } else { *to };
                format!("time_of_day: {{from: '{from:02}:00', to: '{to:02}:00'}}, zone: UTC{days}")
            }
        }
    }

    /// `None`: cannot be judged.
    pub(super) fn holds(
        &self,
        allows: bool,
        has_fact: bool,
        arguments: &Arguments,
        moment: Moment,
    ) -> Option<bool> {
        if let Self::Hours { from, to, workdays } = self {
            let (day, hour) = (moment? / 24, moment? % 24);
            let mut hours = (0..24).map(|after| (from + after) % 24).take_while(|hour| hour != to);
            return Some((!workdays || day < 5) && hours.any(|one| one == hour));
        }
        let Arguments::With { n, things } = arguments else { return None };
        if !has_fact {
            return None;
        }
        match self {
            Self::Bound(0, bound) => Some(n <= bound),
            Self::Bound(1, bound) => Some(n >= bound),
            Self::Bound(2, bound) => Some(n > bound),
            Self::Bound(_, bound) => Some(n < bound),
            Self::List { which, entries, fits } => {
                let known = &LISTED[*which].things;
                if things[*which].is_empty() {
                    return None;
                }
                let mut each = Vec::new();
                for thing in &things[*which] {
                    let to: Vec<_> = known[*thing]
                        .1
                        .iter()
                        .zip(entries)
                        .filter(|(_, is_named)| **is_named)
                        .map(|(to, _)| *to)
                        .collect();
                    if to.contains(&In) {
                        each.push(*fits);
                    } else if to.contains(&Unclear) {
                        return None;
                    } else {
                        each.push(!fits);
                    }
                }
                Some(if allows { !each.contains(&false) } else { each.contains(&true) })
            }
            Self::Hours { .. } => unreachable!(),
        }
    }
}

impl Arguments {
    pub(super) fn json(&self) -> Option<Json> {
        match self {
            Self::Absent => None,
            Self::Without => Some(Json::Object(Vec::new())),
            Self::With { n, things } => {
                let mut members = vec![("n".to_owned(), Json::Number((*n).into()))];
                for (listed, things) in LISTED.iter().zip(things) {
                    let texts = things.iter().map(|thing| Json::String(listed.things[*thing].0.to_owned()));
                    members.push((listed.fact.to_owned(), Json::Array(texts.collect())));
                }
                Some(Json::Object(members))
            }
        }
    }
}

/// The 5th of January 1970 was a Monday.
pub(super) fn timestamp(moment: Moment) -> Option<Timestamp> {
    Some(Timestamp::from_second(4 * 86_400 + i64::from(moment?) * 3600 + 1800).unwrap())
}
