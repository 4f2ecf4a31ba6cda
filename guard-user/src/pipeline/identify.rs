//! Which agent a request is from, by what it shows and by the process at the other end of its connection.

use http::HeaderMap;

use crate::connection::Connection;
use crate::identity::{Caller, Shown, Unidentified};
use crate::rules::Rules;

/// Whose request it is, and whether it came from the process that the agent's entry asks for.
pub(super) type Identified = Result<(Caller, Result<(), Unidentified>), Unidentified>;

/// A credential that was stolen is not the agent's, but the record must name it.
pub(super) async fn identify(rules: &Rules, connection: &Connection, headers: &HeaderMap) -> Identified {
    let shown = Shown::read(headers)?;
    if !shown.has_secret() {
        let caller = by_process(rules, connection, &shown).await?;
        return Ok((caller, Ok(())));
    }
    let mut caller = rules.by_secret(&shown)?;
    let Some(rule) = rules.policy.agent(caller.agent()).and_then(|entry| entry.needs.process()) else {
        return Ok((caller, Ok(())));
    };
    let digest = if rule.needs_digest() { connection.digest().await } else { None };
    let witnessed = caller.witness(rule, connection.client(), digest.as_ref());
    Ok((caller, witnessed))
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
