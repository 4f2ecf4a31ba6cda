//! How risky a call is: a number from 0 to 100, as a sum of terms that each say why. Pure: what is known comes as arguments.
//!
//! Each term grows with what it looks at and takes nothing off, so that no call becomes less risky by more arguments that weigh, more
//! calls or more refusals. What cannot be told counts as if it were so.

mod history;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use history::{
    AGENTS_MAX, CALLS_PER_AGENT_MAX, HISTORY_FILE, History, KNOWN_DAYS, REFUSALS_MAX, Restored,
};

/// The highest score.
pub const SCORE_MAX: u8 = 100;

/// Characters of a term's reason. Records have all terms.
pub const WHY_CHARS_MAX: usize = 44;

/// What a call does, as its matcher says. In the order of risk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    Read,
    Write,
    /// Nobody has said what it does, so it is nearly as bad as what destroys.
    Unknown,
    Destructive,
}

/// The points of each term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub read: u8,
    pub write: u8,
    pub unknown: u8,
    pub destructive: u8,
    /// The agent has not made such a call in the last 31 days.
    pub new_tool: u8,
    /// Such calls of the agent today.
    pub used_today: Growth,
    /// Refused calls of the agent in the last hour.
    pub refused_lately: Growth,
    /// It is outside of the working hours.
    pub off_hours: u8,
    /// The tool's definition was changed or approved within so many hours.
    pub changed_tool: u8,
    pub changed_hours: u16,
}

/// Points that grow with a count: so many each time that it doubles, up to a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    pub per_doubling: u8,
    pub max: u8,
}

/// What a score is made from.
#[derive(Debug, Clone)]
pub struct Inputs {
    pub base: Base,
    /// Arguments that weigh: points, and what is so.
    pub arguments: Vec<(u8, String)>,
    /// Why it counts as outside of the working hours.
    pub off_hours: Option<String>,
    /// `None`: nothing was asked about what was before, and no term speaks of it.
    pub known: Option<Known>,
}

/// What a call has by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    Class(Class),
    /// In place of its class's points.
    Points(u8),
}

/// What is known of an agent and a target before a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub is_new: bool,
    /// Calls of this target today.
    pub today: u64,
    /// Refused calls in the last hour.
    pub refused: u64,
    /// Seconds since the definition was changed or approved.
    pub changed: Option<u64>,
}

/// How risky a call is, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Score {
    pub score: u8,
    /// Those with points, the class first. Together they may have more points than the highest score.
    pub terms: Vec<Term>,
}

/// One part of a score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Term {
    pub name: &'static str,
    pub points: u8,
    pub why: Box<str>,
}

impl Class {
    pub const ALL: [(&'static str, Self); 3] =
        [("read", Self::Read), ("write", Self::Write), ("destructive", Self::Destructive)];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Unknown => "unknown",
            Self::Destructive => "destructive",
        }
    }
}

impl Default for Model {
    fn default() -> Self {
        Self {
            read: 5,
            write: 25,
            unknown: 40,
            destructive: 50,
            new_tool: 15,
            used_today: Growth { per_doubling: 2, max: 20 },
            refused_lately: Growth { per_doubling: 5, max: 25 },
            off_hours: 10,
            changed_tool: 15,
            changed_hours: 72,
        }
    }
}

impl Model {
    pub fn class(&self, class: Class) -> u8 {
        match class {
            Class::Read => self.read,
            Class::Write => self.write,
            Class::Unknown => self.unknown,
            Class::Destructive => self.destructive,
        }
    }

    /// The score of a call.
    pub fn score(&self, inputs: &Inputs) -> Score {
        let mut terms = Vec::with_capacity(4);
        match inputs.base {
            Base::Class(class) => terms.push(term("class", self.class(class), class.as_str())),
            Base::Points(points) => terms.push(term("base", points, "as its matcher says")),
        }
        terms.extend(inputs.arguments.iter().map(|(points, why)| term("argument", *points, why)));
        if let Some(known) = &inputs.known {
            self.history(known, &mut terms);
        }
        if let Some(why) = &inputs.off_hours {
            terms.push(term("off_hours", self.off_hours, why));
        }
        let sum = terms.iter().fold(0_u8, |sum, term| sum.saturating_add(term.points));
        let mut index = 0;
        terms.retain(|term| {
            index += 1;
            index == 1 || term.points > 0
        });
        Score { score: sum.min(SCORE_MAX), terms }
    }

    fn history(&self, known: &Known, terms: &mut Vec<Term>) {
        if known.is_new {
            terms.push(term("new_tool", self.new_tool, "no such call of it in the last 31 days"));
        }
        let today = self.used_today.points(known.today);
        let why = format!("{} such calls before it today", known.today);
        terms.push(term("used_today", today, &why));
        let refused = self.refused_lately.points(known.refused);
        let why = format!("{} calls refused in the last hour", known.refused);
        terms.push(term("refused_lately", refused, &why));
        let hours = known.changed.map(|seconds| seconds / 3600);
        if let Some(hours) = hours.filter(|hours| *hours < u64::from(self.changed_hours)) {
            let why = format!("its definition is in force since {hours} hours");
            terms.push(term("changed_tool", self.changed_tool, &why));
        }
    }
}

#[cfg(test)]
impl Score {
    pub(crate) fn longest_for_tests() -> Self {
        let term = term("refused_lately", SCORE_MAX, &"\"".repeat(WHY_CHARS_MAX));
        Self { score: SCORE_MAX, terms: vec![term; 13] }
    }
}

impl Growth {
    pub fn points(self, count: u64) -> u8 {
        let doublings = count.saturating_add(1).ilog2();
        let points = doublings.saturating_mul(u32::from(self.per_doubling)).min(u32::from(self.max));
        u8::try_from(points).unwrap_or(self.max)
    }
}

impl fmt::Display for Score {
    /// `45: write 25, new_tool 15, off_hours 5`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.score)?;
        for (index, Term { name, points, .. }) in self.terms.iter().enumerate() {
            write!(f, "{} {name} {points}", if index == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

fn term(name: &'static str, points: u8, why: &str) -> Term {
    // Records have room for plain characters.
    let is_plain = |c: char| c == ' ' || (c.is_ascii_graphic() && c != '"' && c != '\\');
    let plain = |c: char| if is_plain(c) { c } else { '?' };
    Term { name, points, why: why.chars().take(WHY_CHARS_MAX).map(plain).collect() }
}

#[cfg(test)]
mod tests;
