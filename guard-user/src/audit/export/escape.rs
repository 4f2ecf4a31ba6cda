//! Texts on their way into formats that are no JSON. An attacker chose some of them.

use crate::audit::text;

/// The text in printable ASCII: what stands between the quotes of a JSON string. So no text can end a line, move a cursor or reorder what
/// is read, and each can be read back.
pub(super) fn plain(text: &str) -> String {
    let quoted = text::encode(&text).unwrap_or_default();
    let quoted = String::from_utf8(quoted).unwrap_or_default();
    quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default().to_owned()
}

#[cfg(test)]
pub(super) fn read_back(plain: &str) -> String {
    serde_json::from_str(&format!("\"{plain}\"")).unwrap()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn every_text_is_printable_and_reads_back(text in "[\\x00-\\u{10ffff}]{0,60}") {
            let plain = plain(&text);
            prop_assert!(plain.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{plain:?}");
            prop_assert_eq!(read_back(&plain), text);
        }
    }
}
