//! What one server's tools were when they were trusted, and what the server offers now. Pure: the clock is an argument.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

use super::canon::{Canonical, Digest, Unclear};
use super::cosmetic::is_cosmetic;
use super::finding::{self, Finding};
use crate::config::{Cosmetic, FirstSight, ToolRules};

/// Longest name of a tool, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 1024;

/// The tools of one server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pins {
    tools: BTreeMap<String, Tool>,
    /// Approved or forgotten while no guard ran; the next one records it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    to_record: Vec<Step>,
}

/// One tool. It has a pin or an offer, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// What agents may use; none before somebody has approved it.
    pub pinned: Option<Pin>,
    /// What the server offers in its place. While it does, the tool is held.
    pub offered: Option<Offer>,
    /// When it came by first, in UTC.
    pub first_seen: String,
}

/// A definition that is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    pub definition: Definition,
    pub since: String,
    pub by: By,
}

/// Who trusts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    FirstSight,
    /// The rule for changes that are for the eye alone.
    Cosmetic,
    Operator {
        uid: u32,
    },
}

/// What the server offers and nobody has approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    pub what: What,
    pub since: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Definition(Definition),
    Unclear(Unclear),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub digest: Digest,
    /// Its canonical form; none if there was no room for it.
    pub text: Option<String>,
    pub findings: Vec<Finding>,
}

/// What may be kept of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub tools_max: usize,
    /// Of all definitions, pinned and offered.
    pub bytes_max: usize,
    /// Of the longest one.
    pub definition_bytes: usize,
}

/// One entry of a list that came by.
#[derive(Debug)]
pub struct Seen {
    pub name: String,
    pub what: Result<Canonical, Unclear>,
}

/// What became of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Names of tools that no agent may see as they are in this list.
    pub held: Vec<String>,
    pub steps: Vec<Step>,
    /// Something is other than before.
    pub is_changed: bool,
}

/// What happened to a tool, for the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub tool: String,
    pub change: Change,
    /// What the server offers, or what is pinned now.
    pub digest: Option<Digest>,
    /// What was pinned before.
    pub before: Option<Digest>,
    pub findings: Vec<Finding>,
    pub unclear: Option<Unclear>,
    pub uid: Option<u32>,
}

/// The kinds of steps; words of the audit format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// An operator pinned what the server offers.
    Approved,
    /// The server offers what is pinned again.
    Back,
    /// Pinned by rule: the change is for the eye alone.
    Cosmetic,
    /// Something looks wrong in its texts.
    Flagged,
    /// An operator had it forgotten: the next list shows it for the first time.
    Forgotten,
    /// Seen for the first time, and pinned.
    FirstSight,
    /// It is another one than what is pinned.
    Held,
    /// Seen for the first time, and held until somebody approves it.
    New,
    /// There is no room for it, so it is held.
    NoRoom,
}

/// Whether a tool can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Pinned,
    Changed,
    New,
}

/// Why nothing was approved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotApproved {
    #[error(
        "the server offers another definition now, with the digest {0}; look at it again with `mcp-guard tools diff`"
    )]
    Changed(Digest),
    #[error("the server offers what is pinned; there is nothing to approve")]
    Nothing,
    #[error("{0}; the server must mend it, there is nothing to approve")]
    Unclear(Unclear),
    #[error("no such tool has come by; `mcp-guard tools list` shows those that have")]
    Unknown,
}

impl Pins {
    /// Takes in a list that came by, and says what of it may be shown. The same list again changes nothing.
    pub fn observe(&mut self, seen: Vec<Seen>, rules: ToolRules, bounds: Bounds, now: &str) -> Observed {
        let mut observed = Observed::default();
        let mut bytes = self.bytes();
        for seen in once_each(seen) {
            let name = seen.name.clone();
            let before = observed.steps.len();
            let is_shown = self.take_in(seen, rules, bounds, &mut bytes, now, &mut observed);
            if !is_shown {
                observed.held.push(name);
            }
            let flagged: Vec<Step> = observed
                .steps
                .get(before..)
                .unwrap_or_default()
                .iter()
                .filter(|step| !step.findings.is_empty() && step.change != Change::Back)
                .map(|step| Step { change: Change::Flagged, ..step.clone() })
                .collect();
            observed.steps.extend(flagged);
        }
        observed
    }

    /// Whether it may be shown.
    fn take_in(
        &mut self,
        seen: Seen,
        rules: ToolRules,
        bounds: Bounds,
        bytes: &mut usize,
        now: &str,
        observed: &mut Observed,
    ) -> bool {
        let count = self.tools.len();
        let Seen { name, what } = seen;
        let size = what.as_ref().map_or(0, |canonical| canonical.text.len());
        let has_room = bytes.saturating_add(size) <= bounds.bytes_max;
        let entry = match self.tools.entry(name.clone()) {
            Entry::Vacant(_) if count >= bounds.tools_max || name.len() > NAME_BYTES_MAX || !has_room => {
                // One step for all of a list: whoever offers names without end does not write the trail with them.
                if !observed.steps.iter().any(|step| step.change == Change::NoRoom) {
                    observed.steps.push(Step { change: Change::NoRoom, ..Step::of(&name) });
                }
                return false;
            }
            Entry::Vacant(entry) => {
                entry.insert(Tool { pinned: None, offered: None, first_seen: now.to_owned() })
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        let before = entry.pinned.as_ref().map(|pin| pin.definition.digest);
        let step = Step { before, ..Step::of(&name) };
        let canonical = match what {
            Ok(canonical) => canonical,
            Err(unclear) => {
                let what = What::Unclear(unclear);
                if entry.offered.as_ref().is_none_or(|offer| offer.what != what) {
                    *bytes = bytes.saturating_sub(entry.offered_bytes());
                    entry.offered = Some(Offer { what, since: now.to_owned() });
                    observed.is_changed = true;
                    observed.steps.push(Step { change: Change::Held, unclear: Some(unclear), ..step });
                }
                return false;
            }
        };
        if before == Some(canonical.digest) {
            if entry.offered.is_some() {
                *bytes = bytes.saturating_sub(entry.offered_bytes());
                entry.offered = None;
                observed.is_changed = true;
                observed.steps.push(Step { change: Change::Back, digest: before, ..step });
            }
            return true;
        }
        let is_trusted = before.is_none() && rules.first_sight == FirstSight::Trust;
        if entry.offers(canonical.digest) && !is_trusted {
            return false;
        }
        observed.is_changed = true;
        *bytes = bytes.saturating_sub(entry.offered_bytes());
        entry.offered = None;
        let has_room = bytes.saturating_add(size) <= bounds.bytes_max;
        *bytes = if has_room { bytes.saturating_add(size) } else { *bytes };
        let findings = finding::scan(&canonical.text);
        let step = Step { digest: Some(canonical.digest), findings: findings.clone(), ..step };
        let is_for_the_eye = rules.cosmetic == Cosmetic::Accept
            && entry
                .pinned
                .as_ref()
                .and_then(|pin| pin.definition.text.as_ref())
                .is_some_and(|old| has_room && is_cosmetic(old, &canonical.text, &findings));
        let definition =
            Definition { digest: canonical.digest, text: has_room.then_some(canonical.text), findings };
        let by = match (is_trusted, is_for_the_eye) {
            (true, _) => Some((By::FirstSight, Change::FirstSight)),
            (false, true) => Some((By::Cosmetic, Change::Cosmetic)),
            (false, false) => None,
        };
        if let Some((by, change)) = by {
            *bytes = bytes.saturating_sub(entry.pinned_bytes());
            entry.pinned = Some(Pin { definition, since: now.to_owned(), by });
            observed.steps.push(Step { change, ..step });
            return true;
        }
        let change = if before.is_some() { Change::Held } else { Change::New };
        entry.offered = Some(Offer { what: What::Definition(definition), since: now.to_owned() });
        observed.steps.push(Step { change, ..step });
        false
    }

    /// Pins what the server offers, if it is what the operator has seen.
    pub fn approve(
        &mut self,
        tool: &str,
        expected: Option<Digest>,
        uid: u32,
        now: &str,
    ) -> Result<Step, NotApproved> {
        let entry = self.tools.get_mut(tool).ok_or(NotApproved::Unknown)?;
        let definition = match &entry.offered {
            None => return Err(NotApproved::Nothing),
            Some(Offer { what: What::Unclear(unclear), .. }) => return Err(NotApproved::Unclear(*unclear)),
            Some(Offer { what: What::Definition(definition), .. }) => definition.clone(),
        };
        if let Some(expected) = expected
            && expected != definition.digest
        {
            return Err(NotApproved::Changed(definition.digest));
        }
        let step = Step {
            change: Change::Approved,
            digest: Some(definition.digest),
            before: entry.pinned.as_ref().map(|pin| pin.definition.digest),
            findings: definition.findings.clone(),
            uid: Some(uid),
            ..Step::of(tool)
        };
        entry.pinned = Some(Pin { definition, since: now.to_owned(), by: By::Operator { uid } });
        entry.offered = None;
        Ok(step)
    }

    /// Puts a pin in place that an operator chose from a copy of these. If the server has changed the tool again since, it is
    /// still held.
    pub fn adopt(&mut self, tool: &str, pin: Pin) {
        let Some(entry) = self.tools.get_mut(tool) else { return };
        if entry.offers(pin.definition.digest) {
            entry.offered = None;
        }
        entry.pinned = Some(pin);
    }

    /// The same as [`Pins::approve`] while no guard runs.
    pub fn approve_unrecorded(
        &mut self,
        tool: &str,
        expected: Option<Digest>,
        uid: u32,
        now: &str,
    ) -> Result<(), NotApproved> {
        let step = self.approve(tool, expected, uid, now)?;
        self.note_to_record(step);
        Ok(())
    }

    /// Forgets a tool, pinned or not: what the server offers next is seen for the first time.
    pub fn forget(&mut self, tool: &str, uid: u32) -> Result<Step, NotApproved> {
        let forgotten = self.tools.remove(tool).ok_or(NotApproved::Unknown)?;
        let before = forgotten.pinned.as_ref().map(|pin| pin.definition.digest);
        Ok(Step { change: Change::Forgotten, before, uid: Some(uid), ..Step::of(tool) })
    }

    /// The same while no guard runs.
    pub fn forget_unrecorded(&mut self, tool: &str, uid: u32) -> Result<(), NotApproved> {
        let step = self.forget(tool, uid)?;
        self.note_to_record(step);
        Ok(())
    }

    /// There is one record for each tool at most, of what was decided last.
    fn note_to_record(&mut self, step: Step) {
        self.to_record.retain(|before| before.tool != step.tool);
        self.to_record.push(step);
    }

    /// What was decided while no guard ran.
    pub fn to_record(&self) -> &[Step] {
        &self.to_record
    }

    /// That is in the trail now.
    pub fn forget_to_record(&mut self) {
        self.to_record.clear();
    }

    pub fn tools(&self) -> impl Iterator<Item = (&String, &Tool)> {
        self.tools.iter()
    }

    pub fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.get(name)
    }

    /// Whether there is room for one tool more, however long its definition. Else a list may have left out a tool that
    /// nothing here knows.
    pub fn has_room(&self, bounds: Bounds) -> bool {
        self.tools.len() < bounds.tools_max
            && self.bytes().saturating_add(bounds.definition_bytes) <= bounds.bytes_max
    }

    fn bytes(&self) -> usize {
        self.tools.values().map(|tool| tool.pinned_bytes() + tool.offered_bytes()).sum()
    }
}

/// Each name once; what stands twice is unclear.
fn once_each(mut seen: Vec<Seen>) -> Vec<Seen> {
    seen.sort_by(|a, b| a.name.cmp(&b.name));
    let mut each: Vec<Seen> = Vec::with_capacity(seen.len());
    for one in seen {
        match each.last_mut() {
            Some(last) if last.name == one.name => last.what = Err(Unclear::Twice),
            _ => each.push(one),
        }
    }
    each
}

impl Tool {
    pub fn standing(&self) -> Standing {
        match (&self.pinned, &self.offered) {
            (Some(_), None) => Standing::Pinned,
            (Some(_), Some(_)) => Standing::Changed,
            (None, _) => Standing::New,
        }
    }

    /// Why what the server offers cannot be read.
    pub fn unclear(&self) -> Option<Unclear> {
        match self.offered.as_ref()?.what {
            What::Unclear(unclear) => Some(unclear),
            What::Definition(_) => None,
        }
    }

    fn offers(&self, digest: Digest) -> bool {
        matches!(&self.offered, Some(Offer { what: What::Definition(definition), .. }) if definition.digest == digest)
    }

    fn pinned_bytes(&self) -> usize {
        self.pinned.as_ref().map_or(0, |pin| pin.definition.bytes())
    }

    fn offered_bytes(&self) -> usize {
        match &self.offered {
            Some(Offer { what: What::Definition(definition), .. }) => definition.bytes(),
            _ => 0,
        }
    }
}

impl Definition {
    fn bytes(&self) -> usize {
        self.text.as_ref().map_or(0, String::len)
    }
}

impl Step {
    fn of(tool: &str) -> Self {
        Self {
            tool: tool.to_owned(),
            change: Change::Held,
            digest: None,
            before: None,
            findings: Vec::new(),
            unclear: None,
            uid: None,
        }
    }
}

#[cfg(test)]
mod tests;
