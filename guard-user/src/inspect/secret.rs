//! Keys and tokens that tell by their beginning what they are.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, Input, MatchKind};

/// What comes after a secret's beginning.
#[derive(Clone, Copy)]
enum Tail {
    /// Letters, digits and these, so many or more.
    Of(&'static [u8], usize),
    /// Capitals and digits, exactly so many.
    Capitals(usize),
    /// Two more parts in base64url.
    Jwt,
    /// All up to the end of a private key.
    Pem,
}

/// Bytes of the shortest header of a token after its `eyJ`.
const HEADER_MIN: usize = 7;
/// Letters and digits are in all of them.
const URL: &[u8] = b"-_";

const KNOWN: [(&str, Tail); 26] = [
    ("AKIA", Tail::Capitals(16)),
    ("ASIA", Tail::Capitals(16)),
    ("ghp_", Tail::Of(b"", 36)),
    ("gho_", Tail::Of(b"", 36)),
    ("ghu_", Tail::Of(b"", 36)),
    ("ghs_", Tail::Of(b"", 36)),
    ("ghr_", Tail::Of(b"", 36)),
    ("github_pat_", Tail::Of(b"_", 22)),
    ("glpat-", Tail::Of(URL, 20)),
    ("xoxb-", Tail::Of(b"-", 10)),
    ("xoxp-", Tail::Of(b"-", 10)),
    ("xoxa-", Tail::Of(b"-", 10)),
    ("xoxr-", Tail::Of(b"-", 10)),
    ("xoxs-", Tail::Of(b"-", 10)),
    ("xapp-", Tail::Of(b"-", 10)),
    ("sk_live_", Tail::Of(b"", 16)),
    ("rk_live_", Tail::Of(b"", 16)),
    ("sk-ant-", Tail::Of(URL, 20)),
    ("sk-proj-", Tail::Of(URL, 20)),
    ("AIza", Tail::Of(URL, 35)),
    ("npm_", Tail::Of(b"", 36)),
    ("hf_", Tail::Of(b"", 30)),
    ("SG.", Tail::Of(b"-_.", 40)),
    ("mcpg_", Tail::Of(URL, 20)),
    ("eyJ", Tail::Jwt),
    ("-----BEGIN", Tail::Pem),
];

/// None begins within another, so the leftmost is also the first to end. The end of one may be the beginning of another.
static BEGINNINGS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let mut known = AhoCorasick::builder();
    let beginnings = KNOWN.iter().map(|(beginning, _)| beginning);
    known.match_kind(MatchKind::LeftmostFirst).build(beginnings).ok()
});

/// Whether the text may hold one: where this says no, there is none.
pub(super) fn may_hold(text: &[u8]) -> bool {
    BEGINNINGS.as_ref().is_none_or(|known| known.is_match(text))
}

pub(super) fn find(text: &[u8], mut tell: impl FnMut(Range<usize>)) {
    let Some(known) = BEGINNINGS.as_ref() else { return };
    // Behind the last secret, and where the next token may begin.
    let (mut free, mut token_free) = (0, 0);
    let mut at = 0;
    while let Some(found) = known.find(Input::new(text).range(at..)) {
        let (start, end) = (found.start(), found.end());
        at = start + 1;
        let is_letter = |at: usize| text.get(at).is_some_and(u8::is_ascii_alphanumeric);
        if start < free || (is_letter(start) && start.checked_sub(1).is_some_and(is_letter)) {
            continue;
        }
        let rest = text.get(end..).unwrap_or_default();
        let Some((_, tail)) = KNOWN.get(found.pattern().as_usize()) else { continue };
        let length = match tail {
            Tail::Jwt if start < token_free => None,
            Tail::Jwt => token(rest).map_err(|scanned| token_free = end + scanned).ok(),
            tail => tail.length(rest),
        };
        if let Some(length) = length {
            free = end + length;
            at = free;
            tell(start..free);
        }
    }
}

impl Tail {
    /// The bytes of `rest` that belong to it; none if it is no secret.
    fn length(self, rest: &[u8]) -> Option<usize> {
        match self {
            Self::Of(more, least) => Some(run(rest, more)).filter(|length| *length >= least),
            Self::Capitals(count) => {
                let is_one = rest.iter().take(count).all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
                let is_whole = rest.len() >= count && !rest.get(count).is_some_and(u8::is_ascii_alphanumeric);
                (is_one && is_whole).then_some(count)
            }
            Self::Jwt => token(rest).ok(),
            Self::Pem => {
                let rest = rest.strip_prefix(b" ")?;
                let label = rest.get(..rest.len().min(64))?;
                let closed = memchr::memmem::find(label, b"-----")?;
                let is_private = memchr::memmem::find(label.get(..closed)?, b"PRIVATE KEY").is_some();
                if !is_private {
                    return None;
                }
                // One without an end is one all the same.
                let end = memchr::memmem::find(rest, b"-----END ");
                let end = end.and_then(|at| {
                    let after = rest.get(at + 9..)?;
                    Some(at + 9 + memchr::memmem::find(after, b"-----")? + 5)
                });
                Some(1 + end.unwrap_or(rest.len()))
            }
        }
    }
}

/// The bytes of a token that belong to it after its `eyJ`. An error if it is none: so many bytes in which no other one begins, since it
/// would have the same end.
fn token(rest: &[u8]) -> Result<usize, usize> {
    let header = run(rest, URL);
    let after = |at: usize| rest.get(at..).and_then(|rest| rest.strip_prefix(b"."));
    let claims = after(header).filter(|claims| header >= HEADER_MIN && claims.starts_with(b"eyJ"));
    let claims = header + 1 + run(claims.ok_or(header)?, URL);
    let signature = after(claims).ok_or(claims)?;
    Ok(claims + 1 + run(signature, URL))
}

/// How many letters, digits and `more` it begins with.
fn run(text: &[u8], more: &[u8]) -> usize {
    let length = text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || more.contains(byte)).count();
    #[cfg(test)]
    tests::LOOKED_AT.with(|sum| sum.set(sum.get() + length));
    length
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Bytes of tails, each as often as it was looked at.
        pub(super) static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
    }

    fn found(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        find(text.as_bytes(), |range| found.push(&text[range]));
        found
    }

    #[test]
    fn what_is_almost_a_token_is_not_looked_at_again_and_again() {
        let least = "a".repeat(20);
        for pattern in [
            "eyJ-",
            "eyJ.",
            "eyJaaaaaaa-",
            "eyJaaaaaaa.eyJ-",
            "eyJaaaaaaa.eyJaaaaaaa-",
            "eyJaaaaaaa.-eyJ",
            "glpat-",
            "glpat--eyJ-",
            "SG.",
            &format!("mcpg_{least}."),
        ] {
            let text = pattern.repeat((1 << 17) / pattern.len());
            LOOKED_AT.set(0);
            find(text.as_bytes(), |_| {});
            let looked_at = LOOKED_AT.get();
            assert!(looked_at <= 4 * text.len(), "{pattern}: {looked_at} of {}", text.len());
        }
    }

    #[test]
    fn a_key_is_found_that_begins_where_another_beginning_ends() {
        for before in ["sk-ant-", "glpat-", "sk-proj-", "xoxb-", "-"] {
            let text = format!("{before}----BEGIN PRIVATE KEY-----\nMII");
            let mut found = 0;
            find(text.as_bytes(), |_| found += 1);
            assert_eq!(found, 1, "{text}");
        }
    }

    #[test]
    fn a_token_and_a_key_are_found_in_what_is_almost_a_token() {
        let token = "eyJhbGciOiJ.eyJzdWIiOiIxIn0.c2ln";
        for text in [
            format!("eyJ-eyJa.{token}"),
            format!("eyJaaaaaaa.-{token}"),
            format!("eyJaaaaaaa.eyJ {token}"),
            format!("eyJa.{token}"),
        ] {
            assert!(found(&text).concat().ends_with(token), "{text}: {:?}", found(&text));
        }
        let key = "AKIAIOSFODNN7EXAMPLE";
        assert_eq!(found(&format!("eyJaaaaaaa-{key}-eyJ-")), [key]);
        let private = "-----BEGIN PRIVATE KEY-----\nMII";
        assert_eq!(found(&format!("key{private}")), [private]);
    }
}
