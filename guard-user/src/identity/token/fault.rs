//! Why a token proves nothing.

/// In the order in which they are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenFault {
    #[error("the token cannot be read: {0}")]
    Malformed(&'static str),
    #[error("the token is of no issuer that guard.yaml has")]
    Issuer,
    #[error("the token is for somebody else: its `aud` is not what guard.yaml has as this issuer's audience")]
    Audience,
    #[error(
        "the token is not signed with an algorithm that its issuer's key is for; only EdDSA, ES256 and RS256 are taken"
    )]
    Algorithm,
    #[error(
        "no key of its issuer has the token's `kid`; the issuer may have changed its keys since the guard read them"
    )]
    UnknownKey,
    #[error(
        "the keys of the token's issuer cannot be had at the moment, so that nobody can tell whether it is good"
    )]
    KeysUnavailable,
    #[error("the token's signature is not that of its issuer")]
    Signature,
    #[error("the token has expired; ask its issuer for the next one")]
    Expired,
    #[error("the token is not good yet; the clocks of its issuer and of this host may differ")]
    NotYet,
    #[error(
        "the token does not say for which user the agent works: the claim that guard.yaml names is missing, or no text of 1 to \
         255 characters of ASCII that print"
    )]
    NoUser,
    #[error(
        "the token does not say which profile its caller has: the claim that guard.yaml names is missing, or no name"
    )]
    NoProfile,
}

impl TokenFault {
    /// Its name in audit records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed(_) => "token_malformed",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Algorithm => "token_algorithm",
            Self::UnknownKey => "token_unknown_key",
            Self::KeysUnavailable => "token_keys_unavailable",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet",
            Self::NoUser => "token_no_user",
            Self::NoProfile => "token_no_profile",
        }
    }
}
