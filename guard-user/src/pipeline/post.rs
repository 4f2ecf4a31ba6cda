//! Messages of HTTP+SSE (2024-11-05), which are accepted here and answered on their session's stream.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response};

use super::Pipeline;
use crate::audit::Permit;
use crate::case::Case;
use crate::connection::Connection;
use crate::http::Body;
use crate::identity::Caller;
use crate::refusal::Refusal;
use crate::respond::{self, Expected, Link};
use crate::rpc::{Kind, Message};
use crate::session::Claim;
use crate::upstream::Outgoing;

impl Pipeline {
    /// Makes ready for a message that was judged: `link` knows its call before the server does, which may answer on the stream
    /// before it has said that it accepts the call.
    pub(super) async fn expect<'h>(
        &self,
        case: &mut Case<'h>,
        caller: &Caller,
        claim: Claim,
        link: &Arc<Link>,
    ) -> Result<(Option<Expected>, Cow<'h, HeaderMap>, Permit), Refusal> {
        let headers = claim.forwarded(&case.head.headers);
        let expected = match case.message.as_ref().map(Message::kind) {
            Some(Kind::Request { id }) => {
                let view = case.view(caller, &self.rules, &self.limits, claim, &self.tools);
                Some(link.expect(id, &case.asked, view)?)
            }
            _ => None,
        };
        self.remember(case, caller);
        let permit = self.intend(case).await?;
        let permit = permit.telling(&case.found).keep(std::mem::take(&mut case.leases));
        // Only a request goes on with a call.
        if let Some(expected) = &expected {
            expected.spend();
        }
        Ok((expected, headers, permit))
    }

    /// Forwards it. A call's permit waits with `link` for the answer.
    pub(super) async fn post(
        &self,
        case: &Case<'_>,
        link: &Arc<Link>,
        (expected, headers, permit): (Option<Expected>, &HeaderMap, Permit),
        body: Bytes,
    ) -> Result<Response<Body>, Refusal> {
        let Connection { server, door, .. } = &**case.connection;
        let request = Outgoing { method: &case.head.method, uri: &case.head.uri, headers, body };
        let reply = self.upstream.forward(permit, server, *door, request).await?;
        if let Some(id) = case.message.as_ref().and_then(Message::cancelled) {
            link.cancel(&id);
        }
        let agent = case.caller.as_ref().map(Caller::agent);
        let hides_body =
            agent.is_none_or(|agent| case.rules.policy.inspection(agent, &server.name, None).is_some());
        respond::accept(reply, (expected, hides_body), &self.limits, self.memory.answer(&server.name)).await
    }

    /// A refused message is accepted all the same, and refused on the stream.
    pub(super) fn refuse_on_stream(case: &Case<'_>, refusal: &Refusal) -> Option<Response<Body>> {
        // What is no message, such as one with the id of a call under way, must not end that call.
        if refusal.is_about_http() {
            return None;
        }
        respond::refuse_on(case.link.as_ref()?, &case.asked, refusal)
    }
}
