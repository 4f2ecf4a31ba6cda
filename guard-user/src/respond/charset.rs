//! In which letters an answer is to be read, by what its head says.

use http::header::{CONTENT_TYPE, HeaderMap};

pub(super) const OTHER: &str =
    "its Content-Type has another charset than UTF-8, so no inspection rule can look into it";

/// Whether some client might read it otherwise than as UTF-8. ASCII is the same in both; whatever else is said of the charset, and
/// however, counts as another.
pub(super) fn is_other(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_TYPE).iter().any(|kind| {
        let kind = String::from_utf8_lossy(kind.as_bytes()).to_ascii_lowercase();
        kind.match_indices("charset").any(|(at, word)| {
            let rest = kind.get(at + word.len()..).unwrap_or_default().trim_start();
            let value = rest.strip_prefix('=').unwrap_or_default().trim_start();
            let value = match value.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next(),
                None => value.split([';', ',', ' ', '\t']).next(),
            };
            !matches!(value.unwrap_or_default().trim(), "utf-8" | "utf8" | "us-ascii" | "ascii")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_other_of(kinds: &[&str]) -> bool {
        let kinds = kinds.iter().map(|kind| (CONTENT_TYPE, kind.parse().unwrap()));
        is_other(&kinds.collect::<HeaderMap>())
    }

    #[test]
    fn utf_8_and_ascii_are_read_alike_and_nothing_else_is() {
        for kind in [
            "text/plain",
            "text/plain; charset=utf-8",
            "Text/Plain;Charset=\"UTF-8\"; a=b",
            "application/json; charset = utf8",
            "text/plain;charset=us-ascii;format=flowed",
        ] {
            assert!(!is_other_of(&[kind]), "{kind}");
        }
        for kind in [
            "text/plain; charset=utf-16",
            "text/plain; charset=UTF-16LE",
            "text/plain; charset=utf-7",
            "text/plain; charset=\"iso-8859-1\"",
            "text/plain; charset=utf-8; charset=utf-16",
            "text/plain; a=\"; charset=utf-8\"; charset=utf-16",
            "text/plain; charset*=utf-16''x",
            "text/plain; charset=",
            "text/plain; charset",
            "text/plain; charset=utf-8utf-16",
        ] {
            assert!(is_other_of(&[kind]), "{kind}");
        }
        assert!(is_other_of(&["text/plain", "text/html; charset=cp037"]));
    }
}
