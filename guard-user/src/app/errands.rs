//! Ends sessions in time, and makes the guard's own requests of servers: each with a record first, like any other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Uri};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{App, lock};
use crate::admin::WhichSessions;
use crate::audit::{CallRecord, Event, Local, Outcome, OutcomeResult, Target};
use crate::session::{Ended, Errand, LeftOut, Owner, SESSION_HEADER, Seen, SessionKind, What};
use crate::types::{DecisionId, ServerName, UserName};
use crate::upstream::{Outgoing, Reply};

/// Between two looks for sessions whose time is over.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// A server's answer to the guard is not read beyond this.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long a server may take to answer the guard.
const PATIENCE: Duration = Duration::from_secs(10);
/// Errands of one line that are done at the same time.
const AT_ONCE: usize = 4;

/// Ends every session whose time is over, and tells of what could not be told.
pub(super) async fn end_sessions_in_time(app: Arc<App>) {
    let (mut tick, mut forgotten) = (tokio::time::interval(SWEEP_INTERVAL), Vec::new());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (ended, idle) = app.pipeline.sessions.sweep();
        app.close(ended);
        forgotten.extend(idle);
        app.record_forgotten(&mut forgotten).await;
        for (server, LeftOut { closes, refusals }) in app.pipeline.errands.left_out() {
            tracing::warn!(
                %server, closes, refusals,
                "the server was not told of sessions that are over, or of requests that are refused: there were too many"
            );
        }
        app.pipeline.elsewhere.suspended.sweep();
    }
}

/// Does what is to be done, each server's for itself. Ends what is under way when it is dropped.
pub(super) async fn run(app: Arc<App>) {
    let to_do = std::mem::take(&mut *lock(&app.to_do));
    let mut lines = JoinSet::new();
    for line in to_do.into_iter().flatten() {
        lines.spawn(work(Arc::clone(&app), line));
    }
    while lines.join_next().await.is_some() {}
}

async fn work(app: Arc<App>, mut line: mpsc::Receiver<Errand>) {
    let mut under_way = JoinSet::new();
    while let Some(errand) = line.recv().await {
        while under_way.len() >= AT_ONCE {
            under_way.join_next().await;
        }
        under_way.spawn(do_one(Arc::clone(&app), errand));
    }
}

async fn do_one(app: Arc<App>, errand: Errand) {
    let (server, owner) = (errand.server.clone(), errand.owner.clone());
    let done = tokio::time::timeout(PATIENCE, app.run_errand(errand)).await;
    if let Err(error) = done.unwrap_or_else(|_late| Err(anyhow::anyhow!("it took too long"))) {
        tracing::warn!(%server, agent = %owner.agent, error = format!("{error:#}"), "a server could not be told");
    }
}

impl App {
    /// Has sessions that are over here closed at their servers.
    pub(super) fn close(&self, ended: Vec<Ended>) {
        for session in ended {
            tracing::info!(
                session = session.id.name(), server = %session.server, agent = %session.owner.agent,
                reason = session.reason.as_str(), "a session is over"
            );
            match session.kind {
                SessionKind::Streamable => self.pipeline.errands.leave(session.into()),
                // One that lives in a stream ends with it.
                SessionKind::Sse => self.record_end(session),
            }
        }
    }

    /// What the guard ends has a record, as it has at its server when that is told.
    fn record_end(&self, session: Ended) {
        let audit = self.pipeline.audit.clone();
        tokio::spawn(async move {
            let event = Event::SessionEnded {
                session: Some(session.id.as_str()),
                server: session.server.as_str(),
                agent: session.owner.agent.as_str(),
                reason: session.reason.as_str(),
            };
            if let Err(error) = audit.note(&event).await {
                tracing::error!(session = session.id.name(), %error, "the end of a session is not in the trail");
            }
        });
    }

    /// What an operator wants gone.
    pub(super) fn end_sessions(&self, which: &WhichSessions) -> Value {
        let is_meant = |session: &Seen| {
            (which.all || !which.sessions.is_empty() || which.agent.is_some() || which.server.is_some())
                && (which.sessions.is_empty() || which.sessions.contains(&session.session))
                && which.agent.as_deref().is_none_or(|agent| agent == session.owner.agent.as_str())
                && which.server.as_deref().is_none_or(|server| server == session.server.as_str())
        };
        // A session's id says nothing of tasks, which are not of a session.
        let frees = |server: &ServerName, owner: &Owner| {
            (which.all || which.agent.is_some() || which.server.is_some())
                && which.sessions.is_empty()
                && which.agent.as_deref().is_none_or(|agent| agent == owner.agent.as_str())
                && which.server.as_deref().is_none_or(|meant| meant == server.as_str())
        };
        let taken = self.pipeline.sessions.end(is_meant, frees);
        self.close(taken.to_close);
        json!({ "ended": taken.sessions, "tasks": taken.tasks })
    }

    async fn run_errand(&self, errand: Errand) -> anyhow::Result<()> {
        let Errand { server, door, owner, what } = errand;
        let known = self.config.servers.iter().find(|known| known.name == server);
        let server = known.context("guard.yaml has no such server any more")?;
        let (method, headers, body, reason, asked) = match &what {
            What::Close { head, reason } => {
                (Method::DELETE, head.clone(), Bytes::new(), reason.as_str(), None)
            }
            What::Refuse { head, id, method, .. } => {
                let body = refusal(id, method)?;
                (Method::POST, to_post(head), body, "server_request_refused", Some((id, method)))
            }
        };
        let rules = self.pipeline.rules.load();
        let record = CallRecord {
            id: DecisionId::random(),
            conn: None,
            server: server.name.as_str(),
            agent: Some(owner.agent.as_str()),
            client: Some(owner.client.as_str()),
            profile: Some(owner.profile.as_str()),
            user: owner.user.as_ref().map(UserName::as_str),
            evidence: None,
            credential: None,
            certificate: None,
            peer: None,
            original_dst: None,
            local: Local::Guard,
            era: Some("legacy"),
            session: headers.get(SESSION_HEADER).and_then(|id| id.to_str().ok()),
            http_method: method.as_str(),
            rpc_method: None,
            rpc_id: asked.map(|(id, _)| id.as_str()),
            target: asked.map(|(_, method)| Target { kind: "server_request", name: method }),
            arguments: None,
            intent: None,
            continues: None,
            cause: None,
            reason,
            text: None,
            rule: None,
            velocity: None,
            risk: None,
            counted: None,
            would_deny: &[],
            label: None,
            mark: None,
            trace: None,
            policy: Some(&rules.digest),
            body_bytes: u64::try_from(body.len()).unwrap_or(u64::MAX),
            guest: None,
        };
        let permit = self.pipeline.audit.intend(&record).await?;
        let path = match &what {
            What::Refuse { path: Some(path), .. } => path,
            What::Refuse { .. } | What::Close { .. } => &server.path,
        };
        let uri = Uri::try_from(path.as_str())?;
        let request = Outgoing { method: &method, uri: &uri, headers: &headers, body };
        conclude(self.pipeline.upstream.forward(permit, server, door, request).await?).await;
        Ok(())
    }
}

/// Reads the answer to its end, within limits, so that its connection can be used again.
async fn conclude(Reply { head, body, permit, asked_at }: Reply) {
    let read = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let bytes = read.map_or(0, |body| body.to_bytes().len());
    let result = if head.status.is_success() { OutcomeResult::Ok } else { OutcomeResult::HttpError };
    permit.conclude(&Outcome {
        status: Some(head.status.as_u16()),
        result,
        response_bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        duration: Instant::now().duration_since(asked_at),
        ..Outcome::abandoned()
    });
}

fn to_post(head: &HeaderMap) -> HeaderMap {
    let mut head = head.clone();
    head.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    head.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    head
}

/// What the client would say that does not want to be asked.
fn refusal(id: &str, method: &str) -> anyhow::Result<Bytes> {
    let id: Value = serde_json::from_str(id)?;
    let message = format!("the client's policy does not let this server ask {method}");
    let error = json!({ "jsonrpc": "2.0", "id": id, "error": { "code": 40_300, "message": message } });
    Ok(Bytes::from(error.to_string()))
}
