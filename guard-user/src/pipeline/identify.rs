//! Which agent a request is from, by what it shows and by the process at the other end of its connection.

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use jiff::Timestamp;

use super::Pipeline;
use crate::connection::Connection;
use crate::identity::{Addressed, Caller, CertificateFault, Proof, Shown, TokenFault, Unidentified};
use crate::rules::Rules;
use crate::types::IssuerName;

/// Whose request it is, and whether it came from the process that the agent's entry asks for.
pub(super) type Identified = Result<(Caller, Result<(), Unidentified>), Unidentified>;

impl Pipeline {
    /// Whose request it is. For a key that is not known, its issuer is asked, as far as it may be: keys change before anybody
    /// tells the guard.
    pub(super) async fn identify_asking(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
    ) -> (Arc<Rules>, Identified) {
        let rules = self.rules.load();
        let found = identify(&rules, connection, headers).await;
        let Some(issuer) = lacks_key(&rules, connection, headers, &found) else { return (rules, found) };
        if !self.wanted.ask(&issuer).await {
            return (rules, found);
        }
        let rules = self.rules.load();
        let found = identify(&rules, connection, headers).await;
        (rules, found)
    }
}

/// The head without what was the guard's alone.
pub(super) fn without_own(head: &Parts) -> Parts {
    let mut head = head.clone();
    head.headers.remove(AUTHORIZATION);
    head
}

/// The issuer without whose key nobody can tell who it is.
fn lacks_key(
    rules: &Rules,
    connection: &Connection,
    headers: &HeaderMap,
    found: &Identified,
) -> Option<IssuerName> {
    let Err(Unidentified::Token(TokenFault::UnknownKey | TokenFault::KeysUnavailable)) = found else {
        return None;
    };
    let shown = Shown::read(headers).ok()?;
    addressed(rules, connection, &shown)?.ok()?.asked_issuer().cloned()
}

/// A credential that was stolen is not the agent's, but the record must name it.
pub(super) async fn identify(rules: &Rules, connection: &Connection, headers: &HeaderMap) -> Identified {
    let shown = Shown::read(headers)?;
    let mut caller = if shown.has_secret() {
        rules.by_secret(&shown)?
    } else {
        match addressed(rules, connection, &shown) {
            Some(Ok(token)) => rules.by_token(&shown, &token)?,
            elses => match (by_connection(rules, connection, &shown).await, elses) {
                // Its token is not for the guard; who is nobody by its connection either may have meant it for the guard.
                (
                    Err(
                        Unidentified::Malformed(_)
                        | Unidentified::UnknownProcess
                        | Unidentified::Certificate(CertificateFault::Unknown),
                    ),
                    Some(Err(fault)),
                ) => return Err(fault.into()),
                (caller, _) => caller?,
            },
        }
    };
    let Some(needs) = rules.policy.agent(caller.agent()).map(|entry| &entry.needs) else {
        return Ok((caller, Ok(())));
    };
    if let Some(name) = needs.certificate() {
        let vouched = (&*rules.clients, Timestamp::now());
        let certified = caller.certify(name, connection.certificate.as_ref(), vouched);
        if certified.is_err() {
            return Ok((caller, certified));
        }
    }
    let Some(rule) = needs.process().filter(|_| !matches!(caller.proof(), Proof::Process)) else {
        return Ok((caller, Ok(())));
    };
    let digest = if rule.needs_digest() { connection.digest().await } else { None };
    let witnessed = caller.witness(rule, connection.client(), digest.as_ref());
    Ok((caller, witnessed))
}

/// The token, if one was shown that is for the guard. Where no issuer is known, none is.
fn addressed<'r>(
    rules: &'r Rules,
    connection: &Connection,
    shown: &Shown<'r>,
) -> Option<Result<Addressed<'r>, TokenFault>> {
    let token = shown.token().filter(|_| !rules.issuers.is_empty())?;
    Some(rules.issuers.addressed_at(token, connection.server.authorize.as_ref()))
}

/// By what its connection shows where a request shows nothing: its certificate, or its process.
async fn by_connection(
    rules: &Rules,
    connection: &Connection,
    shown: &Shown<'_>,
) -> Result<Caller, Unidentified> {
    let Some(certificate) = &connection.certificate else {
        return by_process(rules, connection, shown).await;
    };
    if let Some(caller) = rules.by_certificate(shown, certificate) {
        return caller;
    }
    let caller = by_process(rules, connection, shown).await;
    caller.map_err(|error| match error {
        Unidentified::NoCredential | Unidentified::UnknownProcess => CertificateFault::Unknown.into(),
        error => error,
    })
}

/// The executable is read only if nothing but its digest is missing.
async fn by_process(
    rules: &Rules,
    connection: &Connection,
    shown: &Shown<'_>,
) -> Result<Caller, Unidentified> {
    let candidates = rules.policy.known_by_process();
    let needs_digest = shown.needs_digest(candidates.clone(), connection.client());
    let digest = if needs_digest { connection.digest().await } else { None };
    shown.by_process(candidates, (connection.client(), digest.as_ref()), connection.is_tls)
}
