//! The suggested policy as a file: the nodes of the present files, with the rules narrowed and comments that say why.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use super::{Plan, RARE_MAX, Use, Uses, may_narrow};
use crate::config::Problems;
use crate::config::yaml::{self, Node, Value};
use crate::policy::file::Document;
use crate::types::{AgentName, IntentName, NAME_BYTES_MAX, ServerName};

/// The text of the file that takes the place of `files`.
pub(super) fn policy(
    files: &[(PathBuf, String)],
    document: &Document,
    plan: &Plan,
    uses: &Uses,
    about: &[String],
    intents_of: impl Fn(&Use) -> Vec<IntentName>,
) -> Result<String, Problems> {
    let mut text = String::new();
    for line in about {
        comment(&mut text, "", line);
    }
    let mut sections: Vec<(String, Vec<(&PathBuf, Node)>)> = Vec::new();
    let mut files: Vec<_> = files.iter().collect();
    files.sort();
    for (file, content) in files {
        let Value::Map(entries) = yaml::nodes(file, content)?.value else { continue };
        for (key, value) in entries {
            let Value::Text(key) = key.value else { continue };
            match sections.iter_mut().find(|(name, _)| *name == key) {
                Some((_, parts)) => parts.push((file, value)),
                None => sections.push((key, vec![(file, value)])),
            }
        }
    }
    let to = Writing { document, plan, uses, intents_of };
    for (name, parts) in &sections {
        let is_list = parts.iter().any(|(_, node)| matches!(node.value, Value::List(_)));
        let is_map = parts.iter().any(|(_, node)| matches!(node.value, Value::Map(_)));
        if !is_list && !is_map {
            let scalar = parts.iter().find(|(_, node)| node.value != Value::Null);
            let Some((_, scalar)) = scalar else { continue };
            let _infallible = writeln!(text, "{}: {}", plain(name), flow(scalar));
            continue;
        }
        let mut body = String::new();
        for (file, part) in parts {
            match &part.value {
                Value::Map(entries) if name == "agents" => to.agents(&mut body, entries),
                Value::Map(entries) => {
                    for (key, value) in entries {
                        block(&mut body, "  ", &flow(key), value);
                    }
                }
                Value::List(items) if name == "policies" => {
                    for item in items {
                        to.rule(&mut body, file, item);
                    }
                }
                Value::List(items) => items.iter().for_each(|item| entry(&mut body, item)),
                _ => {}
            }
        }
        let is_bare = body.lines().all(|line| line.trim_start().starts_with('#'));
        let empty = match (is_bare, is_list) {
            (true, true) => " []",
            (true, false) => " {}",
            (false, _) => "",
        };
        let _infallible = write!(text, "\n{}:{empty}\n{body}", plain(name));
    }
    Ok(text)
}

struct Writing<'a, F> {
    document: &'a Document,
    plan: &'a Plan,
    uses: &'a Uses,
    intents_of: F,
}

impl<F: Fn(&Use) -> Vec<IntentName>> Writing<'_, F> {
    fn agents(&self, text: &mut String, entries: &[(Node, Node)]) {
        for (key, value) in entries {
            let name = if let Value::Text(name) = &key.value { AgentName::parse(name).ok() } else { None };
            let mut value = value.clone();
            if let Some(agent) = &name {
                let count = self.uses.of(agent, |_, _| true);
                match self.plan.whole.get(agent) {
                    Some(why) => comment(text, "  ", &format!("its rules are as they were: {why}")),
                    None if count.passed() == 0 => comment(text, "  ", "nothing of it passed in this period"),
                    None => self.narrow_servers(agent, &mut value),
                }
            }
            block(text, "  ", &flow(key), &value);
        }
    }

    fn narrow_servers(&self, agent: &AgentName, value: &mut Node) {
        let (Some(servers), Value::Map(keys)) = (self.plan.servers.get(agent), &mut value.value) else {
            return;
        };
        let used = list(servers.iter().map(ServerName::as_str));
        match keys.iter_mut().find(|(key, _)| key.value == Value::Text("servers".into())) {
            Some((_, before)) => *before = used,
            None => keys.push((scalar("servers"), used)),
        }
    }

    fn rule(&self, text: &mut String, file: &PathBuf, node: &Node) {
        let place = (node.line, node.column);
        let rule = self
            .document
            .policies
            .iter()
            .find(|rule| (rule.place.line, rule.place.column) == place && *rule.place.file == **file);
        let Some(rule) = rule.filter(|rule| may_narrow(rule)) else {
            entry(text, node);
            return;
        };
        let whole: BTreeSet<_> = rule
            .agents
            .iter()
            .map(|agent| &agent.value)
            .filter(|agent| self.plan.whole.contains_key(*agent))
            .collect();
        let mut written = Vec::new();
        if !whole.is_empty() {
            written.push((rule.intent.value.as_str(), whole.clone()));
        }
        for intent in self.document.intents.iter().map(|intent| &intent.name.value) {
            let keeps = |agent: &&AgentName| {
                !whole.contains(*agent)
                    && self.plan.intents.get(*agent).is_some_and(|kept| kept.contains(intent))
            };
            let agents: BTreeSet<_> = rule.agents.iter().map(|agent| &agent.value).filter(keeps).collect();
            if rule.intent.value.matches(intent.as_str()) && !agents.is_empty() {
                written.push((intent.as_str(), agents));
            }
        }
        let was = format!("{} ({})", rule.place.short(), rule.intent.value);
        if written.is_empty() {
            let agents: Vec<_> = rule.agents.iter().map(|agent| agent.value.as_str()).collect();
            comment(text, "  ", &format!("left out, nobody used it: {was} for {}", agents.join(", ")));
            return;
        }
        let is_split = written.len() > 1;
        for (intent, agents) in written {
            for agent in &agents {
                self.tell(text, agent, intent, &was);
            }
            entry(text, &changed(node, intent, &agents, is_split));
        }
    }

    /// How often the agent used what has this intent.
    fn tell(&self, text: &mut String, agent: &AgentName, intent: &str, was: &str) {
        if self.plan.whole.contains_key(agent) {
            comment(text, "  ", &format!("{agent}: as it was"));
            return;
        }
        let count = self.uses.of(agent, |used, count| {
            (self.intents_of)(used).iter().chain(&count.intents).any(|name| name.as_str() == intent)
        });
        let held = if count.held > 0 { format!(" ({} held)", count.held) } else { String::new() };
        let refused = if count.refused > 0 { format!(", {} refused", count.refused) } else { String::new() };
        let line = match (count.passed(), &count.last) {
            (0, _) => format!("{agent}: no call of it; kept since it used the server's own methods"),
            (passed, last) => {
                let rare = if passed <= RARE_MAX { "RARE: " } else { "" };
                format!(
                    "{rare}{agent}: {passed} calls{held}{refused}, last {}",
                    last.as_deref().unwrap_or("unknown")
                )
            }
        };
        comment(text, "  ", &format!("{line}; was {was}"));
    }
}

/// The rule for one intent and some of its agents.
fn changed(node: &Node, intent: &str, agents: &BTreeSet<&AgentName>, is_split: bool) -> Node {
    let mut node = node.clone();
    let Value::Map(keys) = &mut node.value else { return node };
    keys.retain_mut(|(key, value)| {
        let Value::Text(key) = &key.value else { return true };
        match key.as_str() {
            "intent" => *value = scalar(intent),
            "agents" => *value = list(agents.iter().map(|agent| agent.as_str())),
            "name" if is_split => {
                let Value::Text(name) = &value.value else { return true };
                let name = format!("{name} ({intent})");
                if name.len() > NAME_BYTES_MAX {
                    return false;
                }
                *value = scalar(&name);
            }
            _ => {}
        }
        true
    });
    node
}

fn scalar(text: &str) -> Node {
    Node { line: 0, column: 0, value: Value::Text(text.to_owned()) }
}

fn list<'a>(texts: impl Iterator<Item = &'a str>) -> Node {
    Node { line: 0, column: 0, value: Value::List(texts.map(scalar).collect()) }
}

/// A line that no reader takes for anything else: names in records may be an attacker's.
fn comment(text: &mut String, indent: &str, line: &str) {
    let _infallible = writeln!(text, "{indent}# {}", line.escape_default());
}

/// `key:` with a value of one or more lines.
fn block(text: &mut String, indent: &str, key: &str, value: &Node) {
    let lines: Vec<String> = match &value.value {
        Value::Map(keys) => {
            keys.iter().map(|(key, value)| format!("{}: {}", flow(key), flow(value))).collect()
        }
        Value::List(items) => items.iter().map(|item| format!("- {}", flow(item))).collect(),
        _ => Vec::new(),
    };
    let first = if lines.is_empty() { format!(" {}", flow(value)) } else { String::new() };
    let _infallible = writeln!(text, "{indent}{key}:{first}");
    for line in lines {
        let _infallible = writeln!(text, "{indent}  {line}");
    }
}

/// An entry of a list.
fn entry(text: &mut String, item: &Node) {
    let Value::Map(keys) = &item.value else {
        let _infallible = writeln!(text, "  - {}", flow(item));
        return;
    };
    for (index, (key, value)) in keys.iter().enumerate() {
        let dash = if index == 0 { "-" } else { " " };
        let _infallible = writeln!(text, "  {dash} {}: {}", flow(key), flow(value));
    }
}

fn flow(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Text(text) => plain(text),
        Value::List(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Map(keys) => {
            let keys: Vec<_> =
                keys.iter().map(|(key, value)| format!("{}: {}", flow(key), flow(value))).collect();
            format!("{{{}}}", keys.join(", "))
        }
    }
}

/// Without quotes where every reader takes it for this text; else as JSON writes it, which is YAML too.
fn plain(text: &str) -> String {
    const WORDS: [&str; 12] =
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf", "infinity"];
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(&a.value, &b.value))
            }
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .zip(b)
                        .all(|(a, b)| same(&a.0.value, &b.0.value) && same(&a.1.value, &b.1.value))
            }
            (a, b) => a == b,
        }
    }

    proptest::proptest! {
        #[test]
        fn a_text_is_read_as_it_was_written(text in "\\PC{0,12}|[-a-z:#*&!|>%@`'\"{}, \\t\\n\\x00-\\x1f]{0,8}|[0-9.e+x_:-]{1,8}") {
            let written = format!("a: [{}, {{{}: 1}}]\n", plain(&text), plain(&text));
            let read = yaml::nodes(Path::new("a.yaml"), &written);
            // Characters that YAML forbids cannot have been read from a policy file either.
            if let Ok(read) = read {
                let value = Value::Text(text.clone());
                let Value::Map(entries) = &read.value else { panic!() };
                let Value::List(items) = &entries[0].1.value else { panic!() };
                assert_eq!(items[0].value, value);
                let Value::Map(inner) = &items[1].value else { panic!() };
                assert_eq!(inner[0].0.value, value);
            } else {
                assert!(text.chars().any(|c| !('\u{20}'..='\u{7e}').contains(&c)), "{text:?}");
            }
        }
    }

    #[test]
    fn what_is_written_is_what_was_read() {
        let before = "a: {b: [1, 2.5, -3, 1.0e20, true, null, \"60\", 60s, 'x: #y'], \"*\": {c: []}}";
        let before = yaml::nodes(Path::new("a.yaml"), before).unwrap();
        let Value::Map(entries) = &before.value else { panic!() };
        let mut text = String::new();
        block(&mut text, "", &flow(&entries[0].0), &entries[0].1);
        let after = yaml::nodes(Path::new("a.yaml"), &text).unwrap();
        assert!(same(&before.value, &after.value), "{text}");
    }

    #[test]
    fn a_name_from_a_record_ends_no_comment() {
        let mut text = String::new();
        comment(&mut text, "", "x\npolicies:\r\u{2028}\u{85}- y");
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with("# ") && text.is_ascii());
    }
}
