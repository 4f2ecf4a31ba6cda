//! The transcript: sections, rows of who did what and what came back, and why it matters. 100 columns at most.

use std::io::{IsTerminal, stdout};
use std::time::Instant;

const WIDTH: usize = 100;
/// Columns of a row: who, does what, what came back; the rest is what was said.
const WHO: usize = 11;
const DOES: usize = 28;
const CAME: usize = 9;
const INDENT: usize = 3;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const CYAN: &str = "36";

/// Whether what came back is good news for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Good,
    Bad,
}

pub(crate) struct Screen {
    started: Instant,
    colours: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let colours = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        Self { started: Instant::now(), colours }
    }

    pub(crate) fn title(&self, text: &str) {
        println!("\n{}", self.paint(BOLD, text));
    }

    /// Starts a section, with the seconds since the demo's start.
    pub(crate) fn section(&self, number: u32, title: &str) {
        let time = format!("{:5.1} s", self.started.elapsed().as_secs_f64());
        let title = format!("{number}  {title}");
        let gap = WIDTH.saturating_sub(title.chars().count() + time.len());
        println!("\n{}{:gap$}{}", self.paint(BOLD, &title), "", self.paint(DIM, &time));
    }

    /// What somebody did and what came back.
    pub(crate) fn row(&self, who: &str, does: &str, mark: Mark, came: &str, said: &str) {
        let colour = if mark == Mark::Good { GREEN } else { RED };
        let start = format!(
            "{:INDENT$}{who:<WHO$}{does:<DOES$}{}",
            "",
            self.paint(colour, &format!("{came:<CAME$}")),
        );
        Self::hang(&start, INDENT + WHO + DOES + CAME, said);
    }

    /// Something that the demo did, or that it knows.
    pub(crate) fn fact(&self, who: &str, said: &str) {
        let start = format!("{:INDENT$}{}", "", self.paint(CYAN, &format!("{who:<WHO$}")));
        Self::hang(&start, INDENT + WHO, said);
    }

    /// Text as it is, below the facts.
    pub(crate) fn line(text: &str) {
        println!("{:INDENT$}{text}", "");
    }

    /// Why it matters.
    pub(crate) fn why(&self, text: &str) {
        for (number, line) in wrap(text, WIDTH - INDENT - 2).iter().enumerate() {
            let start = if number == 0 { "→" } else { " " };
            println!("{:INDENT$}{}", "", self.paint(DIM, &format!("{start} {line}")));
        }
    }

    pub(crate) fn end(&self, good: bool, text: &str) {
        println!("\n{}", self.paint(if good { GREEN } else { RED }, text));
    }

    pub(crate) fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// `text` behind `start`, which takes `column` columns; further lines begin there too.
    fn hang(start: &str, column: usize, text: &str) {
        let lines = wrap(text, WIDTH - column);
        println!("{start}{}", lines.first().map_or("", String::as_str));
        for line in lines.iter().skip(1) {
            println!("{:column$}{line}", "");
        }
    }
}

/// Lines of at most `width` characters, broken between words; a longer word stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a-word-that-is-longer x", 5), ["a-word-that-is-longer", "x"]);
        assert!(wrap("", 5).is_empty());
    }
}
