//! The domains of e-mail addresses and URLs, read so that no server reads another one.
//!
//! What can be written in several ways is taken in one only: a plain `local@domain`, or `scheme://domain:port/...`. The
//! rest of what the standards allow (quoted local parts, comments, display names, user names in URLs, addresses for hosts,
//! other scripts than ASCII) is where readers differ, so it has no domain, and nobody can say that it is an allowed one.

use std::collections::HashSet;

/// In which the host says who is asked. In others, such as `file`, servers pass over it.
const SCHEMES: [&str; 4] = ["https", "http", "wss", "ws"];
const DOMAIN_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
const LOCAL_BYTES_MAX: usize = 64;

/// Domains that a rule names: `example.com`, or `*.example.com` for all below it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::policy) struct Domains {
    exact: HashSet<String>,
    below: HashSet<String>,
}

impl Domains {
    /// The entry that is none, and why.
    pub(in crate::policy) fn new<'t>(
        entries: impl Iterator<Item = &'t str>,
    ) -> Result<Self, (usize, &'static str)> {
        let (mut exact, mut below) = (HashSet::new(), HashSet::new());
        for (index, entry) in entries.enumerate() {
            let (set, name) = match entry.strip_prefix("*.") {
                Some(name) => (&mut below, name),
                None => (&mut exact, entry),
            };
            set.insert(canonical(name).map_err(|why| (index, why))?);
        }
        Ok(Self { exact, below })
    }

    fn has(&self, domain: &str) -> bool {
        let parents = std::iter::successors(domain.split_once('.'), |(_, rest)| rest.split_once('.'));
        self.exact.contains(domain) || parents.into_iter().any(|(_, parent)| self.below.contains(parent))
    }

    /// Tells of each address or URL in `text` whether its domain is listed.
    pub(super) fn look(&self, text: &str, mut tell: impl FnMut(bool)) -> Result<(), &'static str> {
        if text.contains("://") {
            tell(self.has(&of_url(text)?));
            return Ok(());
        }
        for address in text.split([',', ';']) {
            tell(self.has(&of_address(address.trim_matches(' '))?));
        }
        Ok(())
    }
}

fn of_address(address: &str) -> Result<String, &'static str> {
    let (local, domain) = address.split_once('@').ok_or("is neither an address nor a URL")?;
    if domain.contains('@') {
        return Err("has several @");
    }
    // No `!` and `%`, which were ways through other hosts, and no quotes, comments and brackets.
    let is_plain = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"+_'&=~#$*/^{}|?`-".contains(&b))
    };
    if local.len() > LOCAL_BYTES_MAX || !local.split('.').all(is_plain) {
        return Err("is not a plain address such as a@example.com");
    }
    canonical(domain)
}

fn of_url(url: &str) -> Result<String, &'static str> {
    const NOT_PLAIN: &str = "is not a plain URL such as https://example.com/a";
    // Where some end a URL, or begin a second one.
    let is_plain = |b: u8| b.is_ascii_graphic() && !b"\\,;\"'<>`".contains(&b);
    if !url.bytes().all(is_plain) {
        return Err(NOT_PLAIN);
    }
    let (scheme, rest) = url.split_once("://").ok_or(NOT_PLAIN)?;
    if !SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err("is a URL of another kind than https, http, wss and ws, whose host may mean nothing");
    }
    let authority = rest.split('/').next().unwrap_or(rest);
    // Some end the host only at a `/`, and find another one behind these.
    if authority.contains(['?', '#']) {
        return Err("has a `?` or `#` right after its host; write a `/` between them");
    }
    let (host, port) = authority.split_once(':').unwrap_or((authority, "0"));
    let port_is_plain = port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit());
    if authority.contains('@') {
        return Err("has a user name before its host");
    }
    if !port_is_plain {
        return Err(NOT_PLAIN);
    }
    canonical(host)
}

/// In small letters, without a dot at its end.
fn canonical(domain: &str) -> Result<String, &'static str> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if !domain.is_ascii() {
        return Err("has a domain in another script; write it as xn--...");
    }
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // `127.1` and `0x7f000001` are addresses for some.
    let last_is_name =
        domain.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_alphabetic()));
    if domain.len() > DOMAIN_BYTES_MAX || !domain.split('.').all(is_label) || !last_is_name {
        return Err("has no plain domain such as example.com");
    }
    Ok(domain.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(text: &str) -> Result<Vec<bool>, &'static str> {
        let domains = Domains::new(["good.com", "*.below.org", "Mixed.Example."].into_iter()).unwrap();
        let mut told = Vec::new();
        domains.look(text, |is_listed| told.push(is_listed)).map(|()| told)
    }

    #[test]
    fn a_domain_is_the_same_in_any_case_and_with_a_dot_at_its_end() {
        for good in [
            "a@good.com",
            "a.b+c@GOOD.com.",
            "https://good.com",
            "HTTPS://Good.Com:443/x?y=a@b#z",
            "a@x.below.org",
            "a@x.y.below.org",
            "wss://x.below.org./",
            "a@mixed.example",
            "https://good.com/?u=https://evil.com",
        ] {
            assert_eq!(look(good), Ok(vec![true]), "{good}");
        }
        for other in [
            "a@evil.com",
            "a@good.com.evil.com",
            "a@notgood.com",
            "a@sub.good.com",
            "a@below.org",
            "a@xbelow.org",
            "https://good.com.evil.com/",
            "https://evil.com/good.com",
            "a@com",
            "a@xn--god-1qa.com",
        ] {
            assert_eq!(look(other), Ok(vec![false]), "{other}");
        }
        assert_eq!(look("a@good.com, b@evil.com;c@x.below.org"), Ok(vec![true, false, true]));
    }

    #[test]
    fn what_can_be_read_in_two_ways_has_no_domain() {
        for unclear in [
            "",
            "good.com",
            "a",
            "@good.com",
            "a@",
            "a@b@good.com",
            "a@evil.com@good.com",
            "\"a@good.com\" <b@evil.com>",
            "Ada <a@good.com>",
            "<a@good.com>",
            "\"a b\"@good.com",
            "\"a@evil.com\"@good.com",
            "a(@evil.com)@good.com",
            "a@good.com(evil.com)",
            "a@good.com (Ada)",
            "a@(evil.com)good.com",
            "evil.com!a@good.com",
            "a%evil.com@good.com",
            "@evil.com:a@good.com",
            "a@good.com\r\nBcc: b@evil.com",
            "a@good.com\n",
            "a@good.com\0.evil.com",
            "a@good.com b@evil.com",
            "a@good.com|b@evil.com",
            "a@good.com,",
            "a@good.com,,b@good.com",
            "a@good\u{3002}com",
            "a@g\u{f6}od.com",
            "a@\u{ff47}ood.com",
            "a@good.com\u{200b}",
            "a@[192.0.2.1]",
            "a@192.0.2.1",
            "a@good..com",
            "a@.good.com",
            "a@good.com..",
            "a@-good.com",
            "a@good_.com",
            "a..b@good.com",
            ".a@good.com",
            "mailto:a@good.com",
            "group: a@good.com",
            "https://good.com@evil.com/",
            "https://good.com:x@evil.com/",
            "https://good.com\\@evil.com/",
            "https://good.com\\.evil.com/",
            "https://good.com%2eevil.com/",
            "https://good.com%00.evil.com/",
            "https://good.com:",
            "https://good.com:+80/",
            "https://good.com:99999/",
            "https://good.com/ https://evil.com/",
            "https://good.com/,https://evil.com/",
            "https://good.com/\thttps://evil.com",
            "https:///good.com",
            "https:good.com",
            "//good.com",
            "https:/\\evil.com/://good.com",
            "://good.com",
            "https://",
            "https://[::1]/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://0x7f000001/",
            "https://2130706433/",
            "a@evil.com,https://good.com",
            "javascript:alert(1)//https://good.com",
            "https://evil.com#good.com",
            "https://evil.com?good.com",
            "https://good.com#@evil.com/",
            "https://good.com?@evil.com/",
            "file://good.com/etc/passwd",
            "ftp://good.com/a",
            "git+https://good.com/a",
        ] {
            assert!(look(unclear).is_err(), "{unclear:?}: {:?}", look(unclear));
        }
    }

    #[test]
    fn an_entry_that_names_no_domain_is_told() {
        for bad in [
            "",
            "*",
            "*.",
            "*.*.com",
            "a@good.com",
            "https://good.com",
            "good.com:80",
            "g\u{f6}od.com",
            "10.0.0.1",
        ] {
            assert_eq!(Domains::new(["x.org", bad].into_iter()).unwrap_err().0, 1, "{bad}");
        }
    }
}
