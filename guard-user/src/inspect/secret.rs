//! Keys and tokens that tell by their beginning what they are.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

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
    ("-----BEGIN ", Tail::Pem),
];

static BEGINNINGS: LazyLock<Option<AhoCorasick>> =
    LazyLock::new(|| AhoCorasick::new(KNOWN.iter().map(|(beginning, _)| beginning)).ok());

/// Whether the text may hold one: where this says no, there is none.
pub(super) fn may_hold(text: &[u8]) -> bool {
    BEGINNINGS.as_ref().is_none_or(|known| known.is_match(text))
}

pub(super) fn find(text: &[u8], mut tell: impl FnMut(Range<usize>)) {
    let Some(known) = BEGINNINGS.as_ref() else { return };
    let mut free = 0;
    for found in known.find_iter(text) {
        let (start, end) = (found.start(), found.end());
        let before = start.checked_sub(1).and_then(|at| text.get(at));
        if start < free || before.is_some_and(u8::is_ascii_alphanumeric) {
            continue;
        }
        let rest = text.get(end..).unwrap_or_default();
        let Some((_, tail)) = KNOWN.get(found.pattern().as_usize()) else { continue };
        if let Some(length) = tail.length(rest) {
            free = end + length;
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
            Self::Jwt => {
                let header = run(rest, URL);
                let claims = rest.get(header..)?.strip_prefix(b".")?;
                let length = run(claims, URL);
                let signature = claims.get(length..)?.strip_prefix(b".")?;
                let is_one = header >= 7 && claims.starts_with(b"eyJ");
                is_one.then(|| header + 1 + length + 1 + run(signature, URL))
            }
            Self::Pem => {
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
                Some(end.unwrap_or(rest.len()))
            }
        }
    }
}

/// How many letters, digits and `more` it begins with.
fn run(text: &[u8], more: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || more.contains(byte)).count()
}
