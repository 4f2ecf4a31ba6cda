//! SPIFFE IDs: the names of workloads that X509-SVIDs have.

use std::fmt;

/// Longest SPIFFE ID, in bytes.
const BYTES_MAX: usize = 2048;
/// Longest trust domain, in bytes.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;
const SCHEME: &str = "spiffe://";

/// The id of a workload, such as `spiffe://corp.example/agent/billing`: of a trust domain and with a path. There is one
/// spelling of each, so that bytes are compared.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Box<str>);

/// Why a text is no id of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnId {
    #[error("it does not begin with `spiffe://`, in lower case")]
    Scheme,
    #[error("it has more than {BYTES_MAX} bytes")]
    TooLong,
    #[error("its trust domain is not 1 to {TRUST_DOMAIN_BYTES_MAX} of a-z, 0-9, `.`, `-` and `_`")]
    TrustDomain,
    #[error("it has no path, and so names a trust domain and no workload")]
    NoPath,
    #[error(
        "a part of its path is empty, `.` or `..`, or has something else than letters, digits, `.`, `-` and `_`"
    )]
    Path,
}

impl SpiffeId {
    pub fn parse(text: &str) -> Result<Self, NotAnId> {
        if text.len() > BYTES_MAX {
            return Err(NotAnId::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(NotAnId::Scheme)?;
        let (domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
        let is_in_domain =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if domain.is_empty() || domain.len() > TRUST_DOMAIN_BYTES_MAX || !domain.bytes().all(is_in_domain) {
            return Err(NotAnId::TrustDomain);
        }
        let path = path.ok_or(NotAnId::NoPath)?;
        let is_in_path = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let is_segment = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(is_in_path);
        if path.split('/').all(is_segment) { Ok(Self(text.into())) } else { Err(NotAnId::Path) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `corp.example`
    pub fn trust_domain(&self) -> &str {
        let rest = self.0.strip_prefix(SCHEME).unwrap_or_default();
        rest.split_once('/').map_or(rest, |(domain, _)| domain)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_names_a_workload_of_a_trust_domain() {
        for id in ["spiffe://corp.example/agent/billing", "spiffe://a/b", "spiffe://a_b-1.c/A..b/.../_"] {
            assert_eq!(SpiffeId::parse(id).unwrap().as_str(), id);
        }
        assert_eq!(SpiffeId::parse("spiffe://corp.example/a/b").unwrap().trust_domain(), "corp.example");
        let (long, domain) = ("a".repeat(BYTES_MAX), "d".repeat(256));
        for (text, fault) in [
            ("", NotAnId::Scheme),
            ("https://corp.example/agent", NotAnId::Scheme),
            ("SPIFFE://corp.example/agent", NotAnId::Scheme),
            ("spiffe:/corp.example/agent", NotAnId::Scheme),
            (" spiffe://corp.example/agent", NotAnId::Scheme),
            ("spiffe:///agent", NotAnId::TrustDomain),
            ("spiffe://Corp.example/agent", NotAnId::TrustDomain),
            ("spiffe://corp.example:443/agent", NotAnId::TrustDomain),
            ("spiffe://user@corp.example/agent", NotAnId::TrustDomain),
            ("spiffe://corp%2eexample/agent", NotAnId::TrustDomain),
            (&format!("spiffe://{domain}/a"), NotAnId::TrustDomain),
            ("spiffe://corp.example", NotAnId::NoPath),
            ("spiffe://corp.example/", NotAnId::Path),
            ("spiffe://corp.example/agent/", NotAnId::Path),
            ("spiffe://corp.example//agent", NotAnId::Path),
            ("spiffe://corp.example/./agent", NotAnId::Path),
            ("spiffe://corp.example/../agent", NotAnId::Path),
            ("spiffe://corp.example/agent?x=1", NotAnId::Path),
            ("spiffe://corp.example/agent#x", NotAnId::Path),
            ("spiffe://corp.example/%61gent", NotAnId::Path),
            ("spiffe://corp.example/\u{430}gent", NotAnId::Path),
            ("spiffe://corp.example/agent\0", NotAnId::Path),
            (&format!("spiffe://a/{long}"), NotAnId::TooLong),
        ] {
            assert_eq!(SpiffeId::parse(text), Err(fault), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_an_id_is_spelt_in_one_way(text in "(spiffe|SPIFFE)?:?/?/?[a-zA-Z0-9.%@:_-]{0,8}(/[a-zA-Z0-9.%?#_ -]{0,4}){0,4}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.as_str(), text.as_str());
                let path = text.strip_prefix("spiffe://").unwrap().strip_prefix(id.trust_domain()).unwrap();
                prop_assert!(path.len() > 1 && path.starts_with('/') && !path.ends_with('/'));
                prop_assert!(!text.contains(['%', '?', '#', '@', ' ']) && !path.contains("//"));
                prop_assert_eq!(id.trust_domain().to_ascii_lowercase(), id.trust_domain());
            }
        }

        #[test]
        fn no_text_is_read_with_a_panic(text in any::<String>()) {
            let _ = SpiffeId::parse(&text);
            let _ = SpiffeId::parse(&format!("spiffe://{text}"));
        }
    }
}
