//! What a request shows of its sender, and whom that proves it to be.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderValue;
use http::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use http::uri::Authority;
use jiff::Timestamp;

use super::caller::Proof;
use super::secret::bearer;
use super::{
    Caller, Certificate, CredentialId, Credentials, ProcessRule, Secret, Unidentified, Voucher, WrongProcess,
    token,
};
use crate::kernel::Client;
use crate::kernel::process::FileDigest;
use crate::types::{AgentName, ClientId, ProfileName};

/// The header with the client's name.
pub const CLIENT_HEADER: &str = "x-client-id";
/// The header with the profile's name.
pub const PROFILE_HEADER: &str = "x-profile-id";

/// What browsers add to the requests of pages, also where they leave `Origin` out.
const FETCH_SITE: &str = "sec-fetch-site";

pub(super) const FORM: &str = "Authorization must be `Bearer` with a secret of the guard's (`mcpg_...`) or a signed token of an issuer that it knows";

/// The headers that say who sends a request. Nothing is believed yet.
#[derive(Debug)]
pub struct Shown<'h> {
    authorization: Option<Authorization<'h>>,
    client: Option<&'h [u8]>,
    profile: Option<&'h [u8]>,
    host: Option<&'h [u8]>,
    is_from_page: bool,
}

/// For whom an `Authorization` header is.
#[derive(Debug)]
enum Authorization<'h> {
    Guard(Secret),
    /// What looks like a token. Whom it is for stands in it.
    Token(&'h str),
    /// Maybe for the server; to the guard it proves nothing.
    Other,
}

/// An agent's entry in the policy, as far as it says who that is.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'p> {
    pub agent: &'p AgentName,
    pub client: &'p ClientId,
    pub profiles: &'p [ProfileName],
}

/// An agent that needs no secret, as its entry describes it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'p> {
    pub entry: Entry<'p>,
    pub process: &'p ProcessRule,
}

impl<'h> Shown<'h> {
    pub fn read(headers: &'h HeaderMap) -> Result<Self, Unidentified> {
        let authorization = single(headers, AUTHORIZATION.as_str(), "Authorization is there more than once")?;
        let authorization = match authorization.map(|value| (bearer(value), token::bearer(value))) {
            Some((Some(Ok(secret)), _)) => Some(Authorization::Guard(secret)),
            Some((Some(Err(_malformed)), _)) => return Err(Unidentified::Malformed(FORM)),
            Some((None, Some(token))) => Some(Authorization::Token(token)),
            Some((None, None)) => Some(Authorization::Other),
            None => None,
        };
        Ok(Self {
            authorization,
            client: single(headers, CLIENT_HEADER, "X-Client-ID is there more than once")?,
            profile: single(headers, PROFILE_HEADER, "X-Profile-ID is there more than once")?,
            host: single(headers, HOST.as_str(), "Host is there more than once")?,
            is_from_page: headers.contains_key(ORIGIN) || headers.contains_key(FETCH_SITE),
        })
    }

    /// Whether it has a secret of the guard's. If so, that says who it is, or nobody does.
    pub fn has_secret(&self) -> bool {
        matches!(self.authorization, Some(Authorization::Guard(_)))
    }

    /// What looks like a token, if there is one.
    pub fn token(&self) -> Option<&'h str> {
        if let Some(Authorization::Token(token)) = self.authorization { Some(token) } else { None }
    }

    /// Whose token it is. `entry` is that of the agent with its subject.
    pub fn by_token(&self, voucher: Voucher, entry: Option<Entry<'_>>) -> Result<Caller, Unidentified> {
        let entry = entry.ok_or(Unidentified::UnknownSubject)?;
        let said = voucher.profile.as_ref().map(|profile| profile.as_str().as_bytes());
        // What a header says beside the token is the same, or a lie.
        let is_other = said.is_some() && self.profile.is_some_and(|named| Some(named) != said);
        let profile = self.profile_named(said.or(self.profile), &entry).filter(|_| !is_other);
        let profile = profile.ok_or(Unidentified::WrongClientOrProfile)?;
        Ok(Caller {
            agent: entry.agent.clone(),
            client: entry.client.clone(),
            profile: profile.clone(),
            proof: Proof::Token(voucher),
            certificate: None,
            is_witnessed: false,
        })
    }

    /// Whose secret it is `now`. `is_entered` tells whether the policy has the agent with that client and profile.
    pub fn by_secret(
        &self,
        credentials: &Credentials,
        now: Timestamp,
        is_entered: impl FnOnce(&AgentName, &ClientId, &ProfileName) -> bool,
    ) -> Result<Caller, Unidentified> {
        let Some(Authorization::Guard(secret)) = &self.authorization else {
            return Err(self.without_secret());
        };
        let client = self.client.ok_or(Unidentified::MissingHeader("X-Client-ID"))?;
        let profile = self.profile.ok_or(Unidentified::MissingHeader("X-Profile-ID"))?;
        let credential = credentials.find(secret).ok_or(Unidentified::UnknownCredential)?;
        if credential.client().as_str().as_bytes() != client
            || credential.profile().as_str().as_bytes() != profile
        {
            return Err(Unidentified::WrongClientOrProfile);
        }
        if credential.is_expired(now) {
            return Err(Unidentified::Expired);
        }
        if !is_entered(credential.agent(), credential.client(), credential.profile()) {
            return Err(Unidentified::UnknownAgent);
        }
        Ok(Caller {
            agent: credential.agent().clone(),
            client: credential.client().clone(),
            profile: credential.profile().clone(),
            proof: Proof::Secret { credential: credential.id().clone(), expires: credential.expires() },
            certificate: None,
            is_witnessed: false,
        })
    }

    /// Which of `entries`, whose certificate it is, calls. All of them need no secret and no token.
    pub fn by_certificate<'p>(
        &self,
        entries: impl Iterator<Item = Entry<'p>>,
        certificate: &Arc<Certificate>,
    ) -> Result<Caller, Unidentified> {
        let mut fitting = entries.filter_map(|entry| Some((entry, self.profile_of(&entry)?)));
        let (found, another) = (fitting.next(), fitting.next());
        if another.is_some() {
            return Err(Unidentified::SeveralAgents);
        }
        let (found, profile) = found.ok_or(Unidentified::WrongClientOrProfile)?;
        // A browser shows the certificate that is installed in it for whatever page asks.
        if self.is_from_page {
            return Err(Unidentified::WebPage);
        }
        Ok(Caller {
            agent: found.agent.clone(),
            client: found.client.clone(),
            profile: profile.clone(),
            proof: Proof::Certificate(CredentialId::of_certificate(&certificate.fingerprint())),
            certificate: Some(Arc::clone(certificate)),
            is_witnessed: false,
        })
    }

    /// Whether only a digest of the executable can tell if `client` is one of `candidates`.
    pub fn needs_digest<'p>(
        &self,
        mut candidates: impl Iterator<Item = Candidate<'p>>,
        client: &Client,
    ) -> bool {
        candidates.any(|candidate| {
            let wants_more =
                candidate.process.check_alone(client, None) == Err(WrongProcess::Differs("sha256"));
            wants_more && self.profile_of(&candidate.entry).is_some()
        })
    }

    /// Which of `candidates` the process `client` is. `digest` is that of its executable, if it is known. `is_tls`: a name
    /// of the guard's was asked for, or the client would have refused the certificate.
    pub fn by_process<'p>(
        &self,
        candidates: impl Iterator<Item = Candidate<'p>>,
        (client, digest): (&Client, Option<&FileDigest>),
        is_tls: bool,
    ) -> Result<Caller, Unidentified> {
        let is_elsewhere = !is_tls && !self.host.is_some_and(is_loopback);
        let mut others = 0;
        let mut fitting = candidates.inspect(|_| others += 1).filter_map(|candidate| {
            let profile = self.profile_of(&candidate.entry)?;
            candidate.process.check_alone(client, digest).ok().map(|()| (candidate.entry, profile))
        });
        let (found, another) = (fitting.next(), fitting.next());
        if another.is_some() {
            return Err(Unidentified::SeveralAgents);
        }
        let Some((found, profile)) = found else {
            return Err(if others == 0 { self.without_secret() } else { Unidentified::UnknownProcess });
        };
        if self.is_from_page || is_elsewhere {
            return Err(Unidentified::WebPage);
        }
        Ok(Caller {
            agent: found.agent.clone(),
            client: found.client.clone(),
            profile: profile.clone(),
            proof: Proof::Process,
            certificate: None,
            is_witnessed: false,
        })
    }

    /// The profile that it asks for, or the first one of the entry; `None` if it names another client or profile.
    fn profile_of<'p>(&self, entry: &Entry<'p>) -> Option<&'p ProfileName> {
        self.profile_named(self.profile, entry)
    }

    fn profile_named<'p>(&self, named: Option<&[u8]>, entry: &Entry<'p>) -> Option<&'p ProfileName> {
        if self.client.is_some_and(|client| client != entry.client.as_str().as_bytes()) {
            return None;
        }
        let mut profiles = entry.profiles.iter();
        match named {
            Some(named) => profiles.find(|profile| profile.as_str().as_bytes() == named),
            None => profiles.next(),
        }
    }

    fn without_secret(&self) -> Unidentified {
        match self.authorization {
            None => Unidentified::NoCredential,
            Some(_) => Unidentified::Malformed(FORM),
        }
    }
}

/// Whether a `Host` can only mean this host. A page's own name can be made to mean it, too (DNS rebinding).
fn is_loopback(host: &[u8]) -> bool {
    let Some(authority) = Authority::try_from(host).ok().filter(|_| !host.contains(&b'@')) else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = name.parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The one value of a header. Two are refused: each reader would take the one it likes.
fn single<'h>(
    headers: &'h HeaderMap,
    name: &str,
    twice: &'static str,
) -> Result<Option<&'h [u8]>, Unidentified> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Unidentified::Malformed(twice));
    }
    Ok(first.map(HeaderValue::as_bytes))
}
