//! Which agent a request is from, by what it shows and by the process at the other end of its connection.

use http::HeaderMap;

use crate::connection::Connection;
use crate::identity::{Addressed, Caller, Shown, TokenFault, Unidentified};
use crate::rules::Rules;

/// Whose request it is, and whether it came from the process that the agent's entry asks for.
pub(super) type Identified = Result<(Caller, Result<(), Unidentified>), Unidentified>;

/// A credential that was stolen is not the agent's, but the record must name it.
pub(super) async fn identify(rules: &Rules, connection: &Connection, headers: &HeaderMap) -> Identified {
    let shown = Shown::read(headers)?;
    let mut caller = if shown.has_secret() {
        rules.by_secret(&shown)?
    } else {
        match addressed(rules, &shown) {
            Some(Ok(token)) => rules.by_token(&shown, &token)?,
            elses => {
                let caller = by_process(rules, connection, &shown).await;
                // Its token is not for the guard; who is nobody by its process either may have meant it for the guard.
                return match (caller, elses) {
                    (Err(Unidentified::Malformed(_) | Unidentified::UnknownProcess), Some(Err(fault))) => {
                        Err(fault.into())
                    }
                    (caller, _) => Ok((caller?, Ok(()))),
                };
            }
        }
    };
    let Some(rule) = rules.policy.agent(caller.agent()).and_then(|entry| entry.needs.process()) else {
        return Ok((caller, Ok(())));
    };
    let digest = if rule.needs_digest() { connection.digest().await } else { None };
    let witnessed = caller.witness(rule, connection.client(), digest.as_ref());
    Ok((caller, witnessed))
}

/// The token, if one was shown that is for the guard. Where no issuer is known, none is.
fn addressed<'r>(rules: &'r Rules, shown: &Shown<'r>) -> Option<Result<Addressed<'r>, TokenFault>> {
    let token = shown.token().filter(|_| !rules.issuers.is_empty())?;
    Some(rules.issuers.addressed(token))
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
