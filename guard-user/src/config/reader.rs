//! Reads values out of YAML nodes and collects every mistake instead of stopping at the first.

use std::path::Path;

use super::problem::{Problem, Problems, suggest};
use super::yaml::{Node, Value};
use crate::types::NameError;

/// Reads one file's nodes. A value that cannot be read is `None`, and a problem tells why.
#[derive(Debug)]
pub struct Reader<'f> {
    file: &'f Path,
    problems: Problems,
}

/// The entries of one mapping whose keys are known in advance.
#[derive(Debug)]
pub struct Fields<'n> {
    node: &'n Node,
    /// What the mapping is, such as "a policy".
    what: &'static str,
    entries: Vec<(&'n str, &'n Node)>,
}

impl<'n> Fields<'n> {
    pub fn optional(&self, key: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, node)| *node)
    }

    pub fn required(&self, key: &str, reader: &mut Reader<'_>) -> Option<&'n Node> {
        let found = self.optional(key);
        if found.is_none() {
            let what = format!("{} has no {key:?}", self.what);
            reader.problem(self.node, what, Some(format!("add `{key}:`")));
        }
        found
    }
}

impl<'f> Reader<'f> {
    pub fn new(file: &'f Path) -> Self {
        Self { file, problems: Problems::default() }
    }

    pub fn finish(self) -> Problems {
        self.problems
    }

    pub fn problem(&mut self, node: &Node, what: impl Into<String>, hint: Option<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line: Some(node.line).filter(|line| *line > 0),
            column: Some(node.column).filter(|column| *column > 0),
            what: what.into(),
            hint,
        });
    }

    /// One that is known by its place.
    pub fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn expected(&mut self, node: &Node, what: &str, kind: &str) {
        let hint = match (kind, &node.value) {
            ("text", Value::Number(number)) => Some(format!("put it in quotes: \"{number}\"")),
            ("text", Value::Bool(value)) => Some(format!("put it in quotes: \"{value}\"")),
            ("a list", Value::Text(text)) => Some(format!("write [{text}]")),
            _ => None,
        };
        self.problem(node, format!("{what} must be {kind}, this is {}", node.value.kind()), hint);
    }

    /// A mapping with some of `keys`; other keys are problems.
    pub fn fields<'n>(&mut self, node: &'n Node, what: &'static str, keys: &[&str]) -> Option<Fields<'n>> {
        let entries = self.entries(node, what)?;
        #[cfg(test)]
        super::recorded::mapping(what, keys, entries.iter().map(|(_, name, _)| *name));
        for (key, name, _) in &entries {
            if !keys.contains(name) {
                self.problem(
                    key,
                    format!("unknown key {name:?} in {what}"),
                    suggest(name, keys.iter().copied()),
                );
            }
        }
        Some(Fields {
            node,
            what,
            entries: entries.into_iter().map(|(_, name, node)| (name, node)).collect(),
        })
    }

    /// A mapping with keys of the author's choice: the key's node, its text, the value.
    pub fn entries<'n>(&mut self, node: &'n Node, what: &str) -> Option<Vec<(&'n Node, &'n str, &'n Node)>> {
        let Value::Map(map) = &node.value else {
            self.expected(node, what, "a mapping");
            return None;
        };
        Some(map.iter().filter_map(|(key, value)| Some((key, self.text(key, "a key")?, value))).collect())
    }

    pub fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) if items.is_empty() => {
                self.problem(
                    node,
                    format!("{what} is empty"),
                    Some("name at least one, or remove the key".into()),
                );
                None
            }
            Value::List(items) => Some(items),
            _ => {
                self.expected(node, what, "a list");
                None
            }
        }
    }

    pub fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        if let Value::Text(text) = &node.value {
            return Some(text);
        }
        self.expected(node, what, "text");
        None
    }

    /// A text through its one fallible constructor.
    pub fn name<T>(
        &mut self,
        node: &Node,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, NameError>,
    ) -> Option<T> {
        let text = self.text(node, what)?;
        match parse(text) {
            Ok(name) => Some(name),
            Err(error) => {
                self.problem(node, format!("{what} {text:?}: {error}"), None);
                None
            }
        }
    }

    /// A whole number in `1..=max`.
    pub fn count(&mut self, node: &Node, what: &str, max: u64) -> Option<u64> {
        let Value::Number(number) = &node.value else {
            self.expected(node, what, "a number");
            return None;
        };
        match number.as_u64() {
            Some(count) if (1..=max).contains(&count) => Some(count),
            _ => {
                self.problem(
                    node,
                    format!("{what} must be a whole number from 1 to {max}, this is {number}"),
                    None,
                );
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, node: &Node, what: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        #[cfg(test)]
        super::recorded::choice(what, choices.iter().map(|(word, _)| *word));
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words = choices.iter().map(|(word, _)| *word);
            self.problem(node, format!("{what} {text:?} is not one of the choices"), suggest(text, words));
        }
        found.map(|(_, value)| *value)
    }
}
