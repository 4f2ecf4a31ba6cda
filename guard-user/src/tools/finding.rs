//! What looks wrong in a tool's texts: characters that a person does not see, control characters, and words that speak to
//! the model instead of about the tool. Findings are told, not judged: nothing is refused for one.

use serde::{Deserialize, Serialize};

use super::canon::{self, Node};

/// Findings that are kept of one definition.
pub const FINDINGS_MAX: usize = 8;
/// Bytes of the place of a finding.
const PLACE_BYTES_MAX: usize = 120;

/// Words of a text for the model, in lower case and with single spaces. `docs/tools.md` lists them.
pub const INSTRUCTIONS: [&str; 40] = [
    "<important>",
    "<instructions>",
    "<secret>",
    "<system>",
    "</system>",
    "[inst]",
    "<|im_start|>",
    "<|system|>",
    "ignore previous",
    "ignore all previous",
    "ignore prior",
    "ignore any previous",
    "ignore the above",
    "ignore your instructions",
    "disregard previous",
    "disregard all",
    "disregard the above",
    "forget previous",
    "forget your instructions",
    "override your instructions",
    "new instructions:",
    "system prompt",
    "you are now",
    "you must always",
    "do not tell the user",
    "don't tell the user",
    "do not inform the user",
    "do not mention",
    "don't mention",
    "do not reveal",
    "without telling the user",
    "without informing the user",
    "hide this from the user",
    "before using this tool",
    "before using any other tool",
    "before calling any other tool",
    "instead of using the",
    "conversation history",
    "~/.ssh",
    "id_rsa",
];

/// One thing that looks wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    pub kind: FindingKind,
    /// Where in the definition, such as `inputSchema.properties.path.description`.
    pub at: String,
    /// The character's number, or the words.
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    ControlCharacter,
    HiddenCharacter,
    Instruction,
}

impl FindingKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlCharacter => "control_character",
            Self::HiddenCharacter => "hidden_character",
            Self::Instruction => "instruction",
        }
    }
}

/// Looks at every text of a canonical definition, names of members included.
pub fn scan(definition: &str) -> Vec<Finding> {
    let Ok(node) = canon::read(definition) else { return Vec::new() };
    let mut scan = Scan { place: Vec::new(), found: Vec::new() };
    scan.node(&node);
    scan.found
}

/// Whether a person who reads a text does not see this character, or sees others in another order.
pub fn is_hidden(c: char) -> bool {
    matches!(u32::from(c),
        // Soft hyphen, joiner of graphemes, Arabic letter mark, Hangul fillers, Mongolian separators.
        0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f
        // Zero width, marks of direction; embeddings and overrides; invisible operators and isolates.
        | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164
        // Variation selectors, byte order mark, half-width filler, interlinear annotation.
        | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff9..=0xfffb
        // Shorthand controls, musical controls, tags, further variation selectors.
        | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff
        // For private use: nobody knows what they look like.
        | 0xe000..=0xf8ff | 0xf0000..=0x0010_ffff
    )
}

/// Whether it is a control character that no plain text needs.
pub fn is_control(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\r' | '\t')
}

struct Scan<'a> {
    place: Vec<&'a str>,
    found: Vec<Finding>,
}

impl<'a> Scan<'a> {
    fn node(&mut self, node: &'a Node<'_>) {
        match node {
            Node::Bare(_) => {}
            Node::Text(text) => self.text(text),
            Node::List(items) => items.iter().for_each(|item| self.node(item)),
            Node::Map(members) => {
                for (key, value) in members {
                    self.place.push(key);
                    self.text(key);
                    self.node(value);
                    self.place.pop();
                }
            }
        }
    }

    fn text(&mut self, text: &str) {
        if self.found.len() >= FINDINGS_MAX {
            return;
        }
        if let Some(hidden) = hidden(text) {
            self.tell(FindingKind::HiddenCharacter, format!("U+{:04X}", u32::from(hidden)));
        }
        if let Some(control) = text.chars().find(|c| is_control(*c)) {
            self.tell(FindingKind::ControlCharacter, format!("U+{:04X}", u32::from(control)));
        }
        if let Some(words) = instruction(text) {
            self.tell(FindingKind::Instruction, words.to_owned());
        }
    }

    fn tell(&mut self, kind: FindingKind, what: String) {
        let mut at = self.place.join(".");
        while at.len() > PLACE_BYTES_MAX {
            at.pop();
        }
        if self.found.len() < FINDINGS_MAX {
            self.found.push(Finding { kind, at, what });
        }
    }
}

/// The first hidden character that the script around it does not need.
fn hidden(text: &str) -> Option<char> {
    if text.is_ascii() {
        return None;
    }
    let mut before = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if is_hidden(c) && !is_needed(before, c, chars.peek().copied()) {
            return Some(c);
        }
        before = Some(c);
    }
    None
}

/// Emoji are joined and chosen by such characters, some scripts join and part letters by them, and ideographs have variants.
fn is_needed(before: Option<char>, c: char, after: Option<char>) -> bool {
    let is_base = |c: Option<char>| c.is_some_and(|c| !c.is_ascii() && !is_hidden(c));
    match u32::from(c) {
        // A joiner between two characters of such a script, or after the selector of an emoji.
        0x200c | 0x200d => (is_base(before) || before == Some('\u{fe0f}')) && is_base(after),
        // Text or emoji form of one character; keycaps are made of ASCII.
        0xfe0e | 0xfe0f => {
            is_base(before) || matches!(before, Some('0'..='9' | '#' | '*') if after == Some('\u{20e3}'))
        }
        0xe0100..=0xe01ef => {
            matches!(before.map(u32::from), Some(0x3400..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff))
        }
        _ => false,
    }
}

/// The first pattern that stands in the text, which hidden characters, capitals and line ends do not cover up.
fn instruction(text: &str) -> Option<&'static str> {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars().filter(|c| !is_hidden(*c) && !is_control(*c)) {
        if c.is_whitespace() {
            if !plain.ends_with(' ') {
                plain.push(' ');
            }
        } else if c == '\u{2019}' {
            plain.push('\'');
        } else {
            plain.extend(c.to_lowercase());
        }
    }
    INSTRUCTIONS.into_iter().find(|pattern| plain.contains(pattern))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kinds(description: &str) -> Vec<FindingKind> {
        let definition = json!({"description": description, "name": "t"}).to_string();
        scan(&definition).into_iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn texts_that_a_person_would_not_see_are_found() {
        let smuggled: String = "run".chars().filter_map(|c| char::from_u32(0xe0000 + u32::from(c))).collect();
        for text in [
            "a\u{200b}b",
            "a\u{202e}b",
            "a\u{2066}b",
            "\u{feff}a",
            "a\u{fe01}",
            "😀\u{e0100}\u{e0101}",
            "😀\u{fe0f}\u{fe0f}",
            "a\u{ad}b",
            "a\u{3164}",
            "a\u{e000}",
            "a\u{200d}b",
            &smuggled,
        ] {
            assert_eq!(kinds(text), [FindingKind::HiddenCharacter], "{}", text.escape_unicode());
        }
        for text in ["a\u{1b}[2J", "a\0", "a\u{7f}", "a\u{9b}"] {
            assert_eq!(kinds(text), [FindingKind::ControlCharacter], "{text:?}");
        }
    }

    #[test]
    fn what_scripts_and_emoji_need_is_not_found() {
        for text in [
            "plain\r\n\ttext",
            "👩\u{200d}💻",
            "❤\u{fe0f}\u{200d}🔥",
            "1\u{fe0f}\u{20e3}",
            "می\u{200c}خواهم",
            "葛\u{e0100}",
            "naïve 日本",
        ] {
            assert_eq!(kinds(text), [], "{}", text.escape_unicode());
        }
    }

    #[test]
    fn words_for_the_model_are_found_however_they_are_written() {
        for text in [
            "<IMPORTANT>",
            "Please IGNORE\n  Previous orders",
            "Don\u{2019}t tell the user",
            "reads ~/.ssh/config",
        ] {
            assert_eq!(kinds(text), [FindingKind::Instruction], "{text}");
        }
        assert_eq!(
            kinds("ig\u{200b}nore previous"),
            [FindingKind::HiddenCharacter, FindingKind::Instruction]
        );
        assert_eq!(kinds("Sends an important mail to the user"), []);
    }

    #[test]
    fn every_text_of_a_definition_is_looked_at_and_its_place_is_told() {
        let definition = json!({
            "annotations": {"title": "\u{200b}"},
            "inputSchema": {"properties": {"p\u{200b}": {"enum": ["a", "b\u{202e}"], "description": "system prompt"}}},
            "title": "\u{1}",
        });
        let found: Vec<_> = scan(&definition.to_string()).into_iter().map(|f| (f.at, f.what)).collect();
        let places = [
            "annotations.title",
            "inputSchema.properties.p\u{200b}",
            "inputSchema.properties.p\u{200b}.description",
            "inputSchema.properties.p\u{200b}.enum",
            "title",
        ];
        assert_eq!(found.iter().map(|(at, _)| at.as_str()).collect::<Vec<_>>(), places);
        assert_eq!(found[3].1, "U+202E");
    }

    #[test]
    fn the_patterns_are_those_of_the_document() {
        let document = include_str!("../../../docs/tools.md");
        let (_, list) = document.split_once("```text\n").unwrap();
        let (list, _) = list.split_once("```").unwrap();
        let mut listed: Vec<&str> = list.lines().flat_map(|line| line.split("  ")).collect();
        let mut patterns = INSTRUCTIONS;
        listed.sort_unstable();
        patterns.sort_unstable();
        assert_eq!(listed, patterns);
    }

    #[test]
    fn a_definition_has_so_many_findings() {
        let many: Vec<String> = (0..100).map(|_| "\u{200b}".to_owned()).collect();
        assert_eq!(scan(&json!({ "x": many }).to_string()).len(), FINDINGS_MAX);
    }
}
