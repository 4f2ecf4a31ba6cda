//! What answers must not hold: the inspection rules of the policy in force, on one message of a server.

use bytes::Bytes;

use super::view::{Answer, LABELLED_HIGHER, Passed, View};
use crate::audit::OutcomeResult;
use crate::inspect::{self, Found, Kind, Kinds};
use crate::policy::{Action, Inspection, RuleName};
use crate::refusal::Refusal;
use crate::rpc::Target;
use crate::rpc::reply::Reply;
use crate::rules::Rules;

/// What a request is about, for the rules that its answers go through.
#[derive(Debug, Clone)]
pub enum About {
    Tool(String),
    Prompt(String),
    Resource(String),
    Method(String),
    /// Nobody knows what the answers are about: those of a stream of the server's own.
    Anything,
}

impl About {
    pub fn target(&self) -> Option<(Target<'_>, &str)> {
        match self {
            Self::Tool(name) => Some((Target::Tool(name), "tools/call")),
            Self::Prompt(name) => Some((Target::Prompt(name), "prompts/get")),
            Self::Resource(uri) => Some((Target::Resource(uri), "resources/read")),
            Self::Method(method) => Some((Target::Method, method)),
            Self::Anything => None,
        }
    }
}

/// The first rule that does more than count.
fn binding(inspection: &Inspection) -> Option<&RuleName> {
    let mut rules = inspection.rules.iter();
    rules.find(|rule| rule.action != Action::Count && !rule.is_shadow).map(|rule| &rule.rule)
}

/// Whether every client reads the same letters: not those of UTF-16 or UTF-32, with a mark at its beginning or without.
fn is_text(body: &[u8]) -> bool {
    let has_mark = body.starts_with("\u{feff}".as_bytes());
    !has_mark && !body.contains(&0) && std::str::from_utf8(body).is_ok()
}

/// Some clients read numbers such as `NaN`, comments and commas too many.
fn begins_like_json(body: &[u8]) -> bool {
    matches!(body.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// What becomes of a text.
enum Done {
    AsItIs,
    Masked(Bytes),
    Refused(RuleName),
}

impl View {
    fn inspection<'r>(&self, rules: &'r Rules) -> Option<&'r Inspection> {
        let inspection = rules.policy.inspection(&self.agent, &self.server.name, self.about.target())?;
        Some(inspection)
    }

    /// Whether a rule masks or refuses what answers to this hold.
    pub(super) fn binds(&self) -> bool {
        self.inspection(&self.rules.load()).and_then(binding).is_some()
    }

    /// What goes to the client of a message that may.
    pub(super) fn inspected(&self, passed: Passed, reply: &Reply, rules: &Rules) -> Passed {
        let (Some(data), Some(inspection)) = (&passed.data, self.inspection(rules)) else { return passed };
        if let Some(rule) = binding(inspection).filter(|_| !is_text(data)) {
            return self.refused(rule.clone(), reply, passed.answer);
        }
        let found = inspect::look(data, inspection.kinds, true);
        match self.judge(inspection, data, &found) {
            Done::AsItIs => passed,
            Done::Masked(data) => Passed { data: Some(data), ..passed },
            Done::Refused(rule) => self.refused(rule, reply, passed.answer),
        }
    }

    /// The same of what is no message: a body that goes on as it is. An error if nothing of it may.
    pub(super) fn inspected_body(&self, body: Bytes, is_json: bool) -> Result<Bytes, &'static str> {
        let rules = self.rules.load();
        if !body.is_empty() && !self.is_marked(&rules) {
            return Err(LABELLED_HIGHER);
        }
        let Some(inspection) = self.inspection(&rules).filter(|_| !body.is_empty()) else { return Ok(body) };
        let reads_as_json = serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok();
        if binding(inspection).is_some() {
            if !is_text(&body) {
                return Err("it is no text in UTF-8, so no inspection rule can look into it");
            }
            if !reads_as_json && (is_json || begins_like_json(&body)) {
                return Err(
                    "some clients read JSON in it and others none, so no inspection rule can look into it",
                );
            }
        }
        let found = if reads_as_json {
            inspect::look(&body, inspection.kinds, false)
        } else {
            inspect::look_plain(&body, inspection.kinds)
        };
        match self.judge(inspection, &body, &found) {
            Done::AsItIs => Ok(body),
            Done::Masked(masked) => Ok(masked),
            Done::Refused(_rule) => Err("it holds what an inspection rule keeps back"),
        }
    }

    /// Whether what stands between the messages of a stream may go on.
    pub(super) fn may_pass(&self, raw: &Bytes) -> bool {
        let rules = self.rules.load();
        if !self.is_marked(&rules) {
            return false;
        }
        let Some(inspection) = self.inspection(&rules) else { return true };
        if binding(inspection).is_some() && !is_text(raw) {
            return false;
        }
        let found = inspect::look_plain(raw, inspection.kinds);
        matches!(self.judge(inspection, raw, &found), Done::AsItIs)
    }

    /// What its rules say of a text that holds these. `min_hits` counts all that the answers to one request hold.
    fn judge(&self, inspection: &Inspection, text: &Bytes, found: &Found) -> Done {
        if found.is_empty() {
            return Done::AsItIs;
        }
        for kind in Kind::ALL {
            let hits = found.count(kind);
            if hits > 0 {
                self.found.add(kind, hits);
            }
        }
        let here: Kinds = Kind::ALL.into_iter().filter(|kind| found.count(*kind) > 0).collect();
        let applies = inspection.rules.iter().filter(|rule| {
            let hits = rule.kinds.each().map(|kind| self.found.hits(kind));
            rule.kinds.has_any(here) && hits.fold(0_u64, u64::saturating_add) >= rule.min_hits
        });
        let (mut masks, mut refuses) = (Kinds::default(), None);
        for rule in applies.filter(|rule| rule.action != Action::Count) {
            self.found.acted(&rule.rule, rule.is_shadow);
            match rule.action {
                _ if rule.is_shadow => {}
                // Of some of it nobody knows where it is.
                Action::Mask if found.is_cut() => refuses = refuses.or(Some(&rule.rule)),
                Action::Mask => masks = masks.and(rule.kinds),
                Action::Refuse => refuses = refuses.or(Some(&rule.rule)),
                Action::Count => {}
            }
        }
        match refuses {
            Some(rule) => Done::Refused(rule.clone()),
            None if masks.has_any(here) => Done::Masked(inspect::mask(text, &found.places, masks).into()),
            None => Done::AsItIs,
        }
    }

    /// Nothing of the message goes on. Whoever waits for it is told.
    fn refused(&self, rule: RuleName, reply: &Reply, answer: Option<Answer>) -> Passed {
        tracing::info!(decision = %self.asked.decision, %rule, "an answer was kept back");
        let refusal = Refusal::Inspected(rule);
        let data = self.in_place_of(reply, &refusal);
        let answer = answer.map(|answer| Answer { result: OutcomeResult::Refused, ..answer });
        Passed { data, answer }
    }
}
