//! Which calls of a trail went on and which were refused, for a guard that starts.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use super::reread::{Since, reread};
use crate::types::{AgentName, ServerName};

/// A call as its record tells of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Past {
    pub agent: AgentName,
    pub server: ServerName,
    /// Milliseconds since 1970.
    pub at: u64,
    /// What the policy counted it as; `None`: it was refused.
    pub went_on_as: Option<String>,
}

#[derive(Deserialize)]
struct Line<'a> {
    kind: &'a str,
    time: &'a str,
    decision: Option<&'a str>,
    #[serde(borrow)]
    agent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    server: Option<Cow<'a, str>>,
    target: Option<Target<'a>>,
    #[serde(borrow)]
    intent: Option<Cow<'a, str>>,
    /// A further round of a call is no call of its own.
    #[serde(borrow)]
    continues: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Target<'a> {
    kind: &'a str,
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// Hands each call of `dir` that went on with an intent, or was refused, to `each`, in the order of the trail. Returns how many records it
/// looked at.
pub fn past(dir: &Path, since: Since, mut each: impl FnMut(&Past)) -> io::Result<u64> {
    reread(dir, since, r#""kind":"call""#, |bytes| {
        if let Some(past) = serde_json::from_slice::<Line<'_>>(bytes)?.past() {
            each(&past);
        }
        Ok(())
    })
}

impl Line<'_> {
    fn past(self) -> Option<Past> {
        let is_further = self.continues.is_some();
        let went_on_as = match (self.kind, self.decision?) {
            ("call", "deny") => None,
            ("call", "allow") if !is_further => Some(counted_as(self.target.as_ref(), &self.intent?)),
            _ => return None,
        };
        let time: Timestamp = self.time.parse().ok()?;
        Some(Past {
            agent: AgentName::parse(&self.agent?).ok()?,
            server: ServerName::parse(&self.server?).ok()?,
            at: u64::try_from(time.as_millisecond()).ok()?,
            went_on_as,
        })
    }
}

/// In the words of the policy.
fn counted_as(target: Option<&Target<'_>>, intent: &str) -> String {
    match target {
        Some(Target { kind: kind @ ("tool" | "prompt"), name }) => format!("{kind}:{name}"),
        _ => format!("intent:{intent}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_went_on_or_were_refused_are_handed_out_and_nothing_else_is() {
        let call = |seq: u64, decision: &str, more: &str| {
            format!(
                r#"{{"seq":{seq},"time":"2026-11-21T05:00:00.000000Z","kind":"call","decision":"{decision}","agent":"a","server":"s"{more}}}"#
            )
        };
        let lines = [
            call(0, "allow", r#","target":{"kind":"tool","name":"x"},"intent":"i""#),
            call(1, "allow", r#","target":{"kind":"resource","name":"x://y"},"intent":"i""#),
            call(2, "allow", r#","target":{"kind":"method","name":"ping"},"intent":null"#),
            call(3, "allow", r#","target":{"kind":"tool","name":"x"},"intent":"i","continues":"00""#),
            call(4, "hold", r#","target":{"kind":"tool","name":"x"},"intent":"i""#),
            call(5, "deny", r#","target":{"kind":"tool","name":"\"kind\":\"call\""},"intent":null"#),
            r#"{"seq":6,"time":"2026-11-21T05:00:00.000000Z","kind":"start","version":"1"}"#.into(),
            call(7, "deny", "").replace(r#""agent":"a""#, r#""agent":null"#),
        ];
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("00000000000000000000.jsonl"), lines.join("\n") + "\n").unwrap();
        let found = |since| {
            let mut found = Vec::new();
            past(dir.path(), since, |past| found.push(past.went_on_as.clone())).unwrap();
            found
        };
        let words = |word: &str| Some(word.to_owned());
        assert_eq!(found(Since::Record(0)), [words("tool:x"), words("intent:i"), None]);
        assert_eq!(found(Since::Record(1)), [words("intent:i"), None]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("00000000000000000000.jsonl");
        let said = || past(dir.path(), Since::Record(0), |_| {}).unwrap_err().to_string();
        std::fs::create_dir(&file).unwrap();
        assert!(said().contains(file.to_str().unwrap()), "{}", said());
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "{\"kind\":\"call\",\n").unwrap();
        assert!(said().contains(file.to_str().unwrap()), "{}", said());
        std::fs::remove_file(&file).unwrap();
        std::fs::remove_dir(dir.path()).unwrap();
        assert!(said().contains(dir.path().to_str().unwrap()), "{}", said());
    }
}
