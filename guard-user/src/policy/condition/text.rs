//! Lists of exact texts.

use std::collections::HashSet;

/// Texts, as they must be: byte for byte.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::policy) struct Texts {
    exact: HashSet<Box<str>>,
    /// The same without case, spaces and what is not seen.
    folded: HashSet<String>,
}

/// What some servers split a text at.
const SEPARATORS: [char; 4] = [',', ';', '\n', '\r'];

impl Texts {
    pub(in crate::policy) fn new<'t>(texts: impl Iterator<Item = &'t str> + Clone) -> Self {
        Self { exact: texts.clone().map(Box::from).collect(), folded: texts.map(folded).collect() }
    }

    /// Whether `text` is listed. Of another spelling nobody knows what its server takes it for.
    pub(super) fn has(&self, text: &str) -> Result<bool, &'static str> {
        if self.exact.contains(text) {
            return Ok(true);
        }
        if self.folded.contains(&folded(text)) {
            return Err("is another spelling of a listed text");
        }
        if text.contains(SEPARATORS) && text.split(SEPARATORS).any(|part| self.folded.contains(&folded(part)))
        {
            return Err("has a listed text among others");
        }
        Ok(false)
    }
}

fn folded(text: &str) -> String {
    let seen = text.chars().filter(|c| !c.is_whitespace() && !c.is_control() && !is_unseen(*c));
    // Up and down again, since U+017F is no `s` and U+212A no `k` otherwise.
    seen.map(narrow).flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// Characters without a shape: joiners, marks of direction, selectors of variants, tags.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

/// The full-width forms of ASCII.
fn narrow(c: char) -> char {
    const WIDE: u32 = '\u{ff01}' as u32 - '!' as u32;
    match c {
        '\u{ff01}'..='\u{ff5e}' => u32::from(c).checked_sub(WIDE).and_then(char::from_u32).unwrap_or(c),
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_listed_byte_for_byte_and_another_spelling_of_it_is_nobodys_guess() {
        let texts = Texts::new(["EUR", "Kiel street", "drop"].into_iter());
        for listed in ["EUR", "Kiel street", "drop"] {
            assert_eq!(texts.has(listed), Ok(true), "{listed:?}");
        }
        for other in ["USD", "", "EURO", "dropp", "Kiel", "USD, CHF", "EURO;"] {
            assert_eq!(texts.has(other), Ok(false), "{other:?}");
        }
        for spelling in [
            "eur",
            " EUR",
            "EUR\n",
            "E\u{200b}UR",
            "\u{ff25}UR",
            "\u{212a}iel street",
            "Kielstreet",
            "DROP\0",
            "USD,EUR",
            "USD;\u{200b}eur ;x",
            "drop\ntable",
        ] {
            assert!(texts.has(spelling).is_err(), "{spelling:?}");
        }
    }
}
