//! A definition as lines for a person, and the difference between two. What a terminal would not show, or would obey, is
//! written out, as `\u{202e}`.

use super::canon::{self, Node};
use super::finding::{is_control, is_hidden};

/// Unchanged lines around a change.
const CONTEXT: usize = 3;
/// Most pairs of lines that are compared. Longer texts are shown as one change.
const PAIRS_MAX: usize = 4_000_000;

/// The lines of a canonical definition: one a member, and one a line of each text.
pub fn lines(definition: &str) -> Vec<String> {
    let mut lines = Lines { done: Vec::new(), line: String::new(), depth: 0 };
    match canon::read(definition) {
        Ok(node) => lines.node(&node),
        Err(_unreadable) => lines.line = visible(definition),
    }
    lines.end();
    lines.done
}

/// The changes between two texts, each line with `-`, `+` or a space before it, and `@@` lines between distant ones. Empty:
/// there is none.
pub fn diff(old: &[String], new: &[String]) -> Vec<String> {
    let edits = edits(old, new);
    let is_near = |at: usize| {
        let from = at.saturating_sub(CONTEXT);
        edits.iter().skip(from).take(at - from + CONTEXT + 1).any(|(mark, _)| *mark != ' ')
    };
    let mut shown = Vec::new();
    let (mut was_near, mut line) = (false, 0);
    for (at, (mark, text)) in edits.iter().enumerate() {
        line += usize::from(*mark != '+');
        let near = is_near(at);
        if near && !was_near {
            shown.push(format!("@@ line {} @@", line.max(1)));
        }
        if near {
            shown.push(format!("{mark}{text}"));
        }
        was_near = near;
    }
    shown
}

/// A text in which each character is seen for what it is, on one line.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_hidden(c) || is_control(c) || (c.is_whitespace() && c != ' ') => {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

struct Lines {
    done: Vec<String>,
    line: String,
    depth: usize,
}

impl Lines {
    fn end(&mut self) {
        let line = std::mem::replace(&mut self.line, "  ".repeat(self.depth));
        self.done.push(line);
    }

    fn node(&mut self, node: &Node<'_>) {
        match node {
            Node::Bare(text) => self.line.push_str(text),
            Node::Text(text) => self.text(text),
            Node::List(items) if items.is_empty() => self.line.push_str("[]"),
            Node::Map(members) if members.is_empty() => self.line.push_str("{}"),
            Node::List(items) => {
                self.open('[');
                for (index, item) in items.iter().enumerate() {
                    self.node(item);
                    self.next(index + 1 < items.len());
                }
                self.line.push(']');
            }
            Node::Map(members) => {
                self.open('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    self.line.push_str(&quoted(key));
                    self.line.push_str(": ");
                    self.node(value);
                    self.next(index + 1 < members.len());
                }
                self.line.push('}');
            }
        }
    }

    /// A text of several lines has them below each other.
    fn text(&mut self, text: &str) {
        let indent = " ".repeat(self.line.chars().count().min(40));
        for (index, part) in text.split_inclusive('\n').enumerate() {
            if index > 0 {
                self.end();
                self.line.clone_from(&indent);
            }
            self.line.push_str(&quoted(part));
        }
        if text.is_empty() {
            self.line.push_str("\"\"");
        }
    }

    fn open(&mut self, bracket: char) {
        self.line.push(bracket);
        self.depth += 1;
        self.end();
    }

    fn next(&mut self, is_more: bool) {
        if is_more {
            self.line.push(',');
        } else {
            self.depth = self.depth.saturating_sub(1);
        }
        self.end();
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", visible(text).replace('"', "\\\""))
}

/// Every line of both texts in order, marked.
fn edits<'a>(old: &'a [String], new: &'a [String]) -> Vec<(char, &'a str)> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let most = old.len().min(new.len()) - start;
    let end = old.iter().rev().zip(new.iter().rev()).take(most).take_while(|(a, b)| a == b).count();
    let middle = |text: &'a [String]| text.get(start..text.len() - end).unwrap_or_default();
    let (before, after) = (middle(old), middle(new));
    let same = |lines: &'a [String]| lines.iter().map(|line| (' ', line.as_str())).collect::<Vec<_>>();
    let mut all = same(old.get(..start).unwrap_or_default());
    all.extend(changed(before, after));
    all.extend(same(old.get(old.len() - end..).unwrap_or_default()));
    all
}

/// By the longest common subsequence.
fn changed<'a>(old: &'a [String], new: &'a [String]) -> Vec<(char, &'a str)> {
    let width = new.len() + 1;
    let mut common = vec![0_u32; 0];
    if old.len().saturating_mul(new.len()) <= PAIRS_MAX {
        common.resize((old.len() + 1) * width, 0);
    }
    let at = |common: &[u32], i: usize, j: usize| common.get(i * width + j).copied().unwrap_or(0);
    if !common.is_empty() {
        for i in (0..old.len()).rev() {
            for j in (0..new.len()).rev() {
                let length = if old.get(i) == new.get(j) {
                    at(&common, i + 1, j + 1) + 1
                } else {
                    at(&common, i + 1, j).max(at(&common, i, j + 1))
                };
                if let Some(cell) = common.get_mut(i * width + j) {
                    *cell = length;
                }
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut edits = Vec::with_capacity(old.len() + new.len());
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b && !common.is_empty() => {
                edits.push((' ', a.as_str()));
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), b) if b.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) => {
                edits.push(('-', a.as_str()));
                i += 1;
            }
            (_, Some(b)) => {
                edits.push(('+', b.as_str()));
                j += 1;
            }
            _ => return edits,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Vec<String> {
        text.chars().map(String::from).collect()
    }

    #[test]
    fn a_definition_is_shown_line_by_line_and_nothing_in_it_is_hidden() {
        let shown = lines(
            "{\"description\":\"One\\n<two>\\u001b[2J\",\"inputSchema\":{\"a\u{200b}\":[1.50,{},[]]},\"name\":\"t\\\"\\\\u\",\"x\":\"\"}",
        );
        let expected = [
            "{",
            "  \"description\": \"One\\n\"",
            "                 \"<two>\\u{1b}[2J\",",
            "  \"inputSchema\": {",
            "    \"a\\u{200b}\": [",
            "      1.50,",
            "      {},",
            "      []",
            "    ]",
            "  },",
            "  \"name\": \"t\\\"\\\\u\",",
            "  \"x\": \"\"",
            "}",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_change_is_shown_with_what_is_around_it() {
        assert_eq!(
            diff(&of("abcdefghij"), &of("abcdeXghij")),
            ["@@ line 3 @@", " c", " d", " e", "-f", "+X", " g", " h", " i"]
        );
        assert_eq!(diff(&of("abc"), &of("abc")), [""; 0]);
        assert_eq!(diff(&of(""), &of("a")), ["@@ line 1 @@", "+a"]);
        let two = diff(&of("a123456789b"), &of("A123456789B"));
        assert_eq!(two.iter().filter(|line| line.starts_with("@@")).count(), 2);
    }

    #[test]
    fn texts_that_are_too_long_to_compare_are_one_change() {
        let (old, new) = (vec!["a".to_owned(); 3000], vec!["b".to_owned(); 3000]);
        let mut mixed = new.clone();
        mixed.extend(old.clone());
        mixed.extend(new.clone());
        assert_eq!(edits(&old, &mixed).len(), 3000 + 9000);
    }

    proptest! {
        #[test]
        fn the_edits_make_one_text_of_the_other(old in "[abc]{0,12}", new in "[abc]{0,12}") {
            let (old, new) = (of(&old), of(&new));
            let edits = edits(&old, &new);
            let without = |mark| edits.iter().filter(|(m, _)| *m != mark).map(|(_, line)| (*line).to_owned()).collect::<Vec<_>>();
            prop_assert_eq!(&without('+'), &old);
            prop_assert_eq!(&without('-'), &new);
        }
    }
}
