//! What is wrong with a configuration or policy file, where, and what was probably meant.

use std::fmt;
use std::path::{Path, PathBuf};

/// One mistake in one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Problem {
    pub file: PathBuf,
    /// First line is 1; `None` if the mistake is about the whole file.
    pub line: Option<u64>,
    /// First column is 1.
    pub column: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// What was probably meant, or what to do.
    pub hint: Option<String>,
}

impl Problem {
    /// A mistake that concerns the file as a whole.
    pub fn of_file(file: &Path, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, column: None, what: what.into(), hint: None }
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        write!(f, ": {}", self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong, one line each, in the order of files and lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// `value` if nothing is wrong, else what is wrong, sorted.
    pub fn or<T>(mut self, value: T) -> Result<T, Self> {
        if self.0.is_empty() {
            return Ok(value);
        }
        self.0.sort();
        self.0.dedup();
        Err(self)
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(problem, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// "did you mean ..." if one of `known` is close to `written`, else the list of what is known.
pub fn suggest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    /// A longer list helps nobody.
    const LISTED_MAX: usize = 12;
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    known.dedup();
    let nearest = known.iter().map(|name| (distance(written, name), *name)).min();
    if let Some((edits, name)) = nearest
        && edits <= (written.chars().count().max(name.chars().count()) / 3).max(1)
    {
        return Some(format!("did you mean {name:?}?"));
    }
    match known.len() {
        0 => None,
        1..=LISTED_MAX => Some(format!("known here: {}", known.join(", "))),
        n => Some(format!("known here: {}, and {} more", known[..LISTED_MAX].join(", "), n - LISTED_MAX)),
    }
}

/// Edits (insert, delete, replace, swap neighbours) from `a` to `b`, ignoring case and `_` against `-`.
pub fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| -> Vec<char> {
        text.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
    };
    let (a, b) = (fold(a), fold(b));
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        assert_eq!(suggest("reson", ["reason", "agents"]).unwrap(), "did you mean \"reason\"?");
        assert_eq!(suggest("aegnts", ["reason", "agents"]).unwrap(), "did you mean \"agents\"?");
        assert_eq!(suggest("max-calls", ["max_calls"]).unwrap(), "did you mean \"max_calls\"?");
    }

    #[test]
    fn a_stranger_is_answered_with_what_is_known() {
        assert_eq!(suggest("zebra", ["reason", "agents"]).unwrap(), "known here: agents, reason");
        assert_eq!(suggest("zebra", []), None);
    }

    #[test]
    fn problems_are_listed_by_file_and_line_without_repeats() {
        let at = |line| Problem {
            file: "a.yaml".into(),
            line: Some(line),
            column: Some(1),
            what: "x".into(),
            hint: None,
        };
        let mut problems = Problems::default();
        for line in [9, 2, 9] {
            problems.push(at(line));
        }
        assert_eq!(problems.or(()).unwrap_err().to_string(), "a.yaml:2:1: x\na.yaml:9:1: x");
    }
}
