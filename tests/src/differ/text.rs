//! JSON texts as trees that can hold what JSON forbids: a key twice, a number that is none.

use super::random::Random;

#[derive(Debug, Clone)]
pub(super) enum Tree {
    /// Written as it stands.
    Raw(String),
    Text(String),
    List(Vec<Tree>),
    /// The same key may stand twice.
    Object(Vec<(String, Tree)>),
}

impl Tree {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(super) fn raw(text: &str) -> Self {
        Self::Raw(text.to_owned())
    }

    pub(super) fn object<const N: usize>(members: [(&str, Tree); N]) -> Self {
        Self::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// How many values it is, itself included.
    pub(super) fn size(&self) -> usize {
        let inside = match self {
            Self::Raw(_) | Self::Text(_) => 0,
            Self::List(items) => items.iter().map(Self::size).sum(),
            Self::Object(members) => members.iter().map(|(_, value)| value.size()).sum(),
        };
        1 + inside
    }

    /// The value with this number, counted from the root down.
    pub(super) fn at(&mut self, number: usize) -> Option<&mut Self> {
        let mut left = number;
        self.find(&mut left)
    }

    fn find(&mut self, left: &mut usize) -> Option<&mut Self> {
        if *left == 0 {
            return Some(self);
        }
        *left -= 1;
        match self {
            Self::Raw(_) | Self::Text(_) => None,
            Self::List(items) => items.iter_mut().find_map(|item| item.find(left)),
            Self::Object(members) => members.iter_mut().find_map(|(_, value)| value.find(left)),
        }
    }

    /// The JSON text. Which characters are escaped, and where spaces stand, is left to chance if it is not `plain`.
    pub(super) fn write(&self, random: &mut Random, plain: bool) -> String {
        let mut out = String::new();
        self.write_to(&mut out, random, plain);
        out
    }

    fn write_to(&self, out: &mut String, random: &mut Random, plain: bool) {
        match self {
            Self::Raw(text) => out.push_str(text),
            Self::Text(text) => quote(out, text, random, plain),
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    separate(out, at, random, plain);
                    item.write_to(out, random, plain);
                    space(out, random, plain);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (at, (key, value)) in members.iter().enumerate() {
                    separate(out, at, random, plain);
                    quote(out, key, random, plain);
                    space(out, random, plain);
                    out.push(':');
                    space(out, random, plain);
                    value.write_to(out, random, plain);
                    space(out, random, plain);
                }
                out.push('}');
            }
        }
    }
}

fn separate(out: &mut String, at: usize, random: &mut Random, plain: bool) {
    if at > 0 {
        out.push(',');
    }
    space(out, random, plain);
}

fn space(out: &mut String, random: &mut Random, plain: bool) {
    if !plain && random.chance(8) {
        out.push_str(random.pick(&[" ", "\t", "\n", "\r\n", "  "]));
    }
}

fn quote(out: &mut String, text: &str, random: &mut Random, plain: bool) {
    out.push('"');
    for letter in text.chars() {
        let short = match letter {
            '"' => Some("\\\""),
            '\\' => Some("\\\\"),
            '\n' => Some("\\n"),
            '\r' => Some("\\r"),
            '\t' => Some("\\t"),
            '\u{8}' => Some("\\b"),
            '\u{c}' => Some("\\f"),
            '/' if !plain && random.chance(30) => Some("\\/"),
            _ => None,
        };
        if let Some(short) = short.filter(|_| plain || random.chance(80)) {
            out.push_str(short);
        } else if letter < ' ' || short.is_some() || (!plain && random.chance(6)) {
            escape(out, letter, random);
        } else {
            out.push(letter);
        }
    }
    out.push('"');
}

/// `\u`, in digits of either case.
fn escape(out: &mut String, letter: char, random: &mut Random) {
    let upper = random.chance(50);
    for unit in letter.encode_utf16(&mut [0; 2]) {
        let digits = if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
        out.push_str(&digits);
    }
}
