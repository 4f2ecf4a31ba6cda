//! What is no MCP: the documents in which a server that checks tokens itself says whom it wants them from (RFC 9728, RFC
//! 8414), and the endpoints of one that is its own authorization server. They pass for agents that are known, recorded
//! like any other request, and no message of MCP can go this way.

use bytes::Bytes;
use http::Response;
use jiff::Timestamp;

use super::{Pipeline, judged_method};
use crate::audit::Why;
use crate::case::Case;
use crate::http::Body;
use crate::identity::Caller;
use crate::policy::{Circumstances, Decision, Question};
use crate::refusal::Refusal;
use crate::respond;
use crate::rpc::Target;
use crate::session::{EVENT_HEADER, Owner};
use crate::upstream::Outgoing;

impl Pipeline {
    /// Passes it on, and the answer back whole.
    pub(super) async fn pass_oauth(
        &self,
        case: &mut Case<'_>,
        caller: &Caller,
        body: Bytes,
        (cut, why): (impl Future<Output = Refusal>, &Why),
    ) -> Result<Response<Body>, Refusal> {
        case.session = Some(None);
        // Forms and queries are texts like any other.
        let reading = self.sessions.contexts.enter(&Owner::of(caller, case.connection.client()));
        let read = self.sessions.contexts.read(&reading);
        case.mark = case.rules.policy.mark(&read).filter(|_| !read.is_empty()).cloned();
        let question = Question {
            agent: caller.agent(),
            profile: Some(caller.profile()),
            server: &case.connection.server.name,
            method: judged_method(None),
            target: Target::Method,
            arguments: None,
            around: Circumstances { read: Some(&read), is_bare: case.is_bare(), ..Circumstances::default() },
        };
        case.rule = match case.rules.policy.decide(&question) {
            Decision::Allow(allow) => {
                case.note_shadows(allow.would_deny().to_vec());
                Some(allow.rule().clone())
            }
            Decision::Hold(hold) => return Err(Refusal::held(&hold)),
            Decision::Deny(deny) => return Err(Refusal::Denied(deny)),
        };
        caller.check_expiry(Timestamp::now())?;
        let permit = self.intend(case).await?;
        let permit = permit.heeding(why);
        let connection = case.connection;
        let mut headers = case.head.headers.clone();
        headers.remove(EVENT_HEADER);
        let of_mcp: Vec<_> =
            headers.keys().filter(|name| name.as_str().starts_with("mcp-")).cloned().collect();
        for name in of_mcp {
            headers.remove(name);
        }
        let request = Outgoing { method: &case.head.method, uri: &case.head.uri, headers: &headers, body };
        let answer = async {
            let reply = self.upstream.forward(permit, &connection.server, connection.door, request).await?;
            let share = self.memory.answer(&connection.server.name);
            respond::pass_on(reply, &self.limits, share).await
        };
        tokio::select! {
            biased;
            refusal = cut => Err(refusal),
            response = answer => response,
        }
    }
}
