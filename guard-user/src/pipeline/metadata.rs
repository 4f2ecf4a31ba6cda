//! The document that says where a token for a server is to be had (RFC 9728). The guard has it; it goes to whoever asks, with a
//! record, and nothing of it goes to the server.

use http::Response;
use serde_json::json;

use super::Pipeline;
use crate::audit;
use crate::case::Case;
use crate::config::Authorize;
use crate::http::Body;
use crate::identity::Caller;
use crate::refusal::Refusal;
use crate::respond;

impl Pipeline {
    pub(super) async fn tell_metadata(
        &self,
        case: &mut Case<'_>,
        authorize: &Authorize,
        caller: Option<Caller>,
    ) -> Result<Response<Body>, Refusal> {
        case.session = Some(None);
        case.caller = caller;
        let document = json!({
            "resource": authorize.resource,
            "authorization_servers": case.rules.issuers.urls(&authorize.issuers),
            "scopes_supported": authorize.scopes,
            "bearer_methods_supported": ["header"],
        });
        // Anybody may ask, so it waits with the refusals: a flood of it takes no place of a call's.
        case.record(None, self.audit.digester(), async |record| {
            self.audit.refuse(record, audit::Refusal::Tell, 200).await
        })
        .await?;
        Ok(respond::document(&document))
    }
}

/// Whether a token that was shown allows what its server wants.
pub(super) fn check_scopes(case: &Case<'_>, caller: &Caller) -> Result<(), Refusal> {
    let (Some(authorize), Some(scopes)) = (&case.connection.server.authorize, caller.scopes()) else {
        return Ok(());
    };
    let missing: Vec<_> =
        authorize.scopes.iter().filter(|scope| !scopes.contains(scope)).map(ToString::to_string).collect();
    if missing.is_empty() { Ok(()) } else { Err(Refusal::Scope(missing.join(" "))) }
}
