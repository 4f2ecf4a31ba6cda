//! An explanation in JSON and in words.

use serde::Serialize;
use serde_json::Value;

use super::windows::{Windows, meters};
use crate::cli::output::{self, plain, short};
use crate::cli::top::{key, room};
use crate::policy::{
    Applies, Asked, Decision, Deny, DenyCode, Effect, ExceededAction, Explanation, JudgedRule, MeantIntent,
    Measure, Meter, NearRule, Nearness, What, Written,
};
use crate::risk::Score;

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    agent: String,
    profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    server: String,
    /// What is called, such as `{"tool": "read_customer"}`.
    target: What,
    decision: Effect,
    /// Of a denial.
    code: Option<DenyCode>,
    /// The rule that decides; `protocol` for the protocol's own methods.
    rule: Option<String>,
    intent: Option<String>,
    reason: Option<String>,
    reviewers: Vec<String>,
    /// The agent is answered as if there were no such thing.
    hidden: bool,
    /// Whether lists show it to the agent; null: it is in no list.
    listed: Option<bool>,
    /// All that the call means, or may mean if nobody can tell.
    intents: Vec<String>,
    /// Each intent of the target that not every call means.
    meant: Vec<MeantRow>,
    /// How risky the policy takes it for; null: it does not score such calls.
    risk: Option<Score>,
    /// Why the score lacks terms.
    risk_note: Option<String>,
    rules: Vec<Row>,
    near: Vec<Near>,
    /// Near rules beyond those named here.
    near_left_off: usize,
    velocity: Vec<Limit>,
    /// Why nothing is known of the present counts, or why they are another policy's.
    velocity_note: Option<String>,
    hints: Vec<String>,
    /// SHA-256 of the policy files.
    policy: String,
}

/// An intent with a `when`.
#[derive(Debug, Serialize)]
struct MeantRow {
    intent: String,
    when: Vec<String>,
    /// `yes`, `no` or `unknown`.
    applies: &'static str,
    why: Option<String>,
}

/// A rule that names the agent and one of the intents.
#[derive(Debug, Serialize)]
struct Row {
    rule: String,
    at: Option<String>,
    intent: Option<String>,
    pattern: Option<String>,
    says: Effect,
    /// It binds nobody; records tell of it.
    shadow: bool,
    conditions: Vec<String>,
    /// `yes`, `no` or `unknown`.
    applies: &'static str,
    why: Option<String>,
    decides: bool,
}

#[derive(Debug, Serialize)]
struct Near {
    rule: String,
    at: String,
    says: Effect,
    nearness: Nearness,
    why: String,
}

/// A velocity rule that would count the call.
#[derive(Debug, Serialize)]
struct Limit {
    rule: String,
    /// It counts the calls made in this profile alone; null: in each.
    profile: Option<String>,
    measure: Measure,
    /// What is counted apart.
    per: Vec<&'static str>,
    max: u64,
    /// 0: while it is under way.
    window_seconds: u64,
    weight: u32,
    action: ExceededAction,
    reason: Option<String>,
    /// What the running guard has counted, as `top` tells it; null: not known.
    now: Option<Vec<Value>>,
}

impl Report {
    pub(super) fn new(
        written: &Written,
        asked: &Asked,
        explained: &Explanation,
        windows: Windows,
        risk_note: Option<String>,
    ) -> Self {
        let decision = &explained.decision;
        let denied = if let Decision::Deny(deny) = decision { Some(deny) } else { None };
        let (effect, rule, intent, reason) = match decision {
            Decision::Allow(allow) => (Effect::Allow, Some(allow.rule()), None, None),
            Decision::Hold(hold) => {
                (Effect::Escalate, Some(hold.rule()), Some(hold.intent()), Some(hold.reason()))
            }
            Decision::Deny(deny) => (Effect::Deny, deny.rule(), deny.intent(), Some(deny.reason())),
        };
        let reviewers = if let Decision::Hold(hold) = decision { hold.reviewers() } else { &[] };
        Self {
            agent: asked.agent.to_string(),
            profile: written.profile(asked).map(ToString::to_string),
            user: asked.user.as_ref().map(ToString::to_string),
            server: asked.server.to_string(),
            target: asked.what.clone(),
            decision: effect,
            code: denied.map(Deny::code),
            rule: rule.map(ToString::to_string),
            intent: intent.map(ToString::to_string),
            reason: reason.map(str::to_owned),
            reviewers: reviewers.to_vec(),
            hidden: denied.is_some_and(Deny::is_hidden),
            listed: explained.is_listed,
            intents: explained.intents.iter().map(ToString::to_string).collect(),
            meant: explained.meant.iter().map(MeantRow::from).collect(),
            risk: explained.risk.clone(),
            risk_note: risk_note.filter(|_| explained.risk.is_some()),
            rules: explained.rules.iter().map(Row::from).collect(),
            near: explained.near.iter().map(Near::from).collect(),
            near_left_off: explained.near_left_off,
            velocity: meters(decision).iter().map(|meter| Limit::of(meter, &windows)).collect(),
            velocity_note: windows.note,
            hints: explained.hints.clone(),
            policy: written.policy().digest().to_string(),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut out = vec![self.headline()];
        let mut line = |name: &str, words: &str| out.push(format!("{name:<10}{words}"));
        let profile = self.profile.as_deref().unwrap_or("none");
        let (kind, name) = (self.target.kind().replace('_', " "), plain(self.target.name()));
        let user = self.user.as_ref().map_or(String::new(), |user| format!(" for {user}"));
        line("call", &format!("{}{user} (profile {profile}) at {}: {kind} {name}", self.agent, self.server));
        let intents = if self.intents.is_empty() { "none".into() } else { self.intents.join(", ") };
        line("intents", &intents);
        for meant in &self.meant {
            let when = meant.when.join(", ");
            let why = meant.why.as_ref().map_or(String::new(), |why| format!(": {why}"));
            line("meant", &plain(&format!("{} when {when}: {}{why}", meant.intent, meant.applies)));
        }
        if let Some(risk) = &self.risk {
            let terms = risk.terms.iter().map(|term| format!("{} {} ({})", term.name, term.points, term.why));
            let terms = terms.collect::<Vec<_>>().join(", ");
            line("risk", &plain(&format!("{}: {terms}", risk.score)));
        }
        if let Some(answered) = self.answered() {
            line("answered", answered);
        }
        match self.listed {
            Some(true) => line("lists", "show it to the agent"),
            Some(false) => line("lists", "do not show it to the agent"),
            None => {}
        }
        if !self.rules.is_empty() {
            out.push(format!("\n{}", self.rules()));
        }
        if !self.near.is_empty() {
            out.push(format!("\n{}", self.nearly()));
        }
        if self.decision != Effect::Deny {
            out.push(format!("\n{}", self.velocity()));
        }
        let notes = self.velocity_note.iter().chain(&self.risk_note);
        out.extend(notes.map(|note| format!("note: {note}")));
        if !self.hints.is_empty() {
            out.push(String::new());
            out.extend(self.hints.iter().map(|hint| format!("hint: {hint}")));
        }
        out.push(format!("policy {}", short(&self.policy)));
        out.join("\n")
    }

    fn headline(&self) -> String {
        let by = self.rule.as_ref().map_or(String::new(), |rule| format!(" by {rule}"));
        match self.decision {
            Effect::Allow => format!("ALLOW{by}"),
            Effect::Escalate => format!("ESCALATE{by}: {}", self.reason.as_deref().unwrap_or_default()),
            Effect::Deny => {
                let code = self.code.map_or("", DenyCode::as_str);
                format!("DENY{by} ({code}): {}", self.reason.as_deref().unwrap_or_default())
            }
        }
    }

    fn answered(&self) -> Option<&'static str> {
        match (self.decision, self.hidden, &self.target) {
            (Effect::Deny, true, What::Method(_)) => Some("that there is no such method"),
            (Effect::Deny, true, _) => Some("as if it did not exist"),
            (Effect::Deny, false, _) => Some("with the reason"),
            _ => None,
        }
    }

    fn rules(&self) -> String {
        let mut table = output::table(["RULE", "INTENT", "SAYS", "CONDITIONS", "APPLIES"]);
        for row in &self.rules {
            let applies = match (&row.why, row.decides) {
                (Some(why), true) => format!("{}: {why}; decides", row.applies),
                (Some(why), false) => format!("{}: {why}", row.applies),
                (None, true) => format!("{}; decides", row.applies),
                (None, false) => row.applies.to_owned(),
            };
            let intent = row.intent.as_deref().unwrap_or("-");
            let pattern = row.pattern.as_deref().filter(|pattern| *pattern != intent);
            let intent = pattern.map_or(intent.to_owned(), |pattern| format!("{intent} ({pattern})"));
            let conditions = if row.conditions.is_empty() { "-".into() } else { row.conditions.join(", ") };
            table.add_row([
                named(&row.rule, row.at.as_deref()),
                intent,
                if row.shadow {
                    format!("{} (in shadow)", row.says.as_str())
                } else {
                    row.says.as_str().into()
                },
                conditions,
                applies,
            ]);
        }
        table.to_string()
    }

    fn nearly(&self) -> String {
        let mut table = output::table(["NEARLY", "SAYS", "BUT"]);
        for near in &self.near {
            table.add_row([named(&near.rule, Some(&near.at)), near.says.as_str().into(), near.why.clone()]);
        }
        let more = match self.near_left_off {
            0 => String::new(),
            more => format!("\nand {more} more"),
        };
        format!("{table}{more}")
    }

    fn velocity(&self) -> String {
        if self.velocity.is_empty() {
            return "No velocity rule counts it.".into();
        }
        let mut table = output::table(["COUNTED BY", "LIMIT", "PER", "THEN", "NOW"]);
        for limit in &self.velocity {
            let what = match limit.measure {
                Measure::Calls => "calls",
                Measure::Cost => "cost",
                Measure::Concurrent => "under way",
            };
            let window = if limit.window_seconds == 0 {
                String::new()
            } else {
                format!(" in {}", span(limit.window_seconds))
            };
            let weight = if limit.measure == Measure::Cost {
                format!(" (this one: {})", limit.weight)
            } else {
                String::new()
            };
            let profile = limit.profile.as_ref().map_or(String::new(), |name| format!(" (profile {name})"));
            table.add_row([
                format!("{}{profile}", limit.rule),
                format!("{} {what}{window}{weight}", limit.max),
                limit.per.join(", "),
                action(limit.action).to_owned(),
                now(limit),
            ]);
        }
        table.to_string()
    }
}

/// Keys of one rule that are shown in words; JSON has all that were looked at.
const KEYS_SHOWN_MAX: usize = 5;

fn now(limit: &Limit) -> String {
    let Some(rows) = &limit.now else { return "-".into() };
    if rows.is_empty() {
        return format!("0 of {}", limit.max);
    }
    let shown = rows.iter().take(KEYS_SHOWN_MAX).map(|row| {
        let (used, max) = (row["used"].as_u64().unwrap_or_default(), limit.max);
        let until = match &row["room_in_milliseconds"] {
            Value::Number(number) if number.as_u64() == Some(0) => String::new(),
            wait => format!(
                ", room {}",
                match room(wait) {
                    words if wait.is_null() => words,
                    words => format!("in {words}"),
                }
            ),
        };
        format!("{used} of {max} ({}){until}", key(&row["key"]))
    });
    let mut shown: Vec<String> = shown.collect();
    if let more @ 1.. = rows.len().saturating_sub(KEYS_SHOWN_MAX) {
        shown.push(format!("{more} more"));
    }
    shown.join("; ")
}

/// `may-read (seed.yaml:4)`, or the place alone if that is its name.
fn named(rule: &str, at: Option<&str>) -> String {
    match at {
        Some(at) if !rule.starts_with(at) => format!("{} ({at})", plain(rule)),
        _ => plain(rule),
    }
}

fn action(action: ExceededAction) -> &'static str {
    match action {
        ExceededAction::Deny => "deny",
        ExceededAction::Escalate => "escalate",
        ExceededAction::Shadow => "shadow",
    }
}

/// As a policy file writes it.
fn span(seconds: u64) -> String {
    let unit = [(86_400, "d"), (3600, "h"), (60, "m")]
        .into_iter()
        .find(|(length, _)| seconds.is_multiple_of(*length));
    unit.map_or_else(|| format!("{seconds}s"), |(length, unit)| format!("{}{unit}", seconds / length))
}

fn applies(applies: &Applies) -> (&'static str, Option<String>) {
    match applies {
        Applies::Yes => ("yes", None),
        Applies::No(why) => ("no", Some(why.clone())),
        Applies::Unknown(why) => ("unknown", Some(why.clone())),
    }
}

impl From<&MeantIntent> for MeantRow {
    fn from(meant: &MeantIntent) -> Self {
        let (applies, why) = applies(&meant.applies);
        Self { intent: meant.intent.to_string(), when: meant.when.clone(), applies, why }
    }
}

impl From<&JudgedRule> for Row {
    fn from(judged: &JudgedRule) -> Self {
        let (applies, why) = applies(&judged.applies);
        Self {
            rule: judged.rule.to_string(),
            at: judged.at.clone(),
            intent: judged.intent.as_ref().map(ToString::to_string),
            pattern: judged.pattern.as_ref().map(ToString::to_string),
            says: judged.effect,
            shadow: judged.is_shadow,
            conditions: judged.conditions.clone(),
            applies,
            why,
            decides: judged.decides,
        }
    }
}

impl From<&NearRule> for Near {
    fn from(near: &NearRule) -> Self {
        let NearRule { rule, at, effect, nearness, why } = near;
        Self { rule: rule.to_string(), at: at.clone(), says: *effect, nearness: *nearness, why: why.clone() }
    }
}

impl Limit {
    fn of(meter: &Meter, windows: &Windows) -> Self {
        let rule = &meter.rule;
        let is_of = |row: &&Value| {
            let names_it = row["rule"] == rule.name.as_str() && row["measure"] == rule.measure.as_str();
            // A rule that counts each intent by itself has a meter for each.
            let intent = meter.intent.as_ref().map(ToString::to_string);
            let key = row["key"].as_array().into_iter().flatten();
            names_it
                && intent.is_none_or(|intent| {
                    key.clone().any(|part| part[0] == "intent" && part[1] == intent.as_str())
                })
        };
        Self {
            rule: rule.name.to_string(),
            profile: rule.profile.as_ref().map(ToString::to_string),
            measure: rule.measure,
            per: rule.per.parts().map(crate::policy::Part::as_str).collect(),
            max: rule.max,
            window_seconds: rule.window_milliseconds / 1000,
            weight: meter.weight,
            action: rule.action,
            reason: rule.reason.as_deref().map(str::to_owned),
            now: windows.is_known.then(|| windows.rows.iter().filter(is_of).cloned().collect()),
        }
    }
}
