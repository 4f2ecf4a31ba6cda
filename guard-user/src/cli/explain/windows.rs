//! What the running guard has counted, for `explain`. Asking counts nothing, and without an answer the rest is told.

use serde_json::Value;

use crate::admin::{self, Ask, ClientError, Counted};
use crate::config::Config;
use crate::policy::{Asked, Decision, Meter, What, Written};

/// Keys of one call's rules that are looked at: for rules that count users or sessions there may be many.
const ROWS_MAX: u16 = 1000;

/// What is known of the windows.
#[derive(Debug, Default)]
pub(super) struct Windows {
    /// Keys of the rules that would count the call, the fullest first.
    pub rows: Vec<Value>,
    /// Why nothing is known, or why it may not be what the files say.
    pub note: Option<String>,
    pub is_known: bool,
}

/// The rules that would count a call with this decision.
pub(super) fn meters(decision: &Decision) -> &[Meter] {
    match decision {
        Decision::Allow(allow) => allow.velocity(),
        Decision::Hold(hold) => hold.velocity(),
        Decision::Deny(_) => &[],
    }
}

/// Asks the guard, if one runs here and some rule counts.
pub(super) fn of(config: &Config, written: &Written, asked: &Asked, decision: &Decision) -> Windows {
    let meters = meters(decision);
    if meters.is_empty() {
        return Windows::default();
    }
    let mut rules: Vec<String> = meters.iter().map(|meter| meter.rule.name.to_string()).collect();
    rules.dedup();
    let agent = asked.agent.to_string();
    let nameless = format!("~none:{agent}");
    let tool = if let What::Tool(tool) = &asked.what { tool.clone() } else { nameless.clone() };
    let parts = [("agent", agent), ("server", asked.server.to_string()), ("tool", tool)];
    let parts = parts.map(|(part, name)| (part.to_owned(), name)).to_vec();
    let ask = Ask::Velocity { rows: ROWS_MAX, about: Some(Counted { rules, parts }) };
    let answer = match admin::ask(&config.admin_socket(), &ask) {
        Ok(answer) => answer,
        Err(ClientError::NotRunning { .. }) => {
            let note = Some("no guard runs here, so nothing is counted now".to_owned());
            return Windows { note, ..Windows::default() };
        }
        Err(error) => {
            let note = Some(format!("what is counted now is not known: {error}"));
            return Windows { note, ..Windows::default() };
        }
    };
    let mut rows = answer["rows"].as_array().cloned().unwrap_or_default();
    // Calls without a user or session are counted by agent.
    rows.retain(|row| {
        row["key"].as_array().into_iter().flatten().all(|part| {
            let (kind, name) = (part[0].as_str(), part[1].as_str().unwrap_or_default());
            let is_intent = kind != Some("intent")
                || meters.iter().any(|m| m.intent.as_ref().is_some_and(|i| i.as_str() == name));
            is_intent && (!name.starts_with("~none:") || name == nameless)
        })
    });
    let digest = written.policy().digest().to_string();
    let note = match answer["policy"].as_str() {
        Some(running) if running != digest => {
            Some("the running guard judges by another policy than these files: `mcp-guard reload`".to_owned())
        }
        _ => None,
    };
    Windows { rows, note, is_known: true }
}
