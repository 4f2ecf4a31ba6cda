//! Who holds what, and sessions that an operator ends, with the record of who it was.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::App;
use crate::admin::WhichSessions;
use crate::audit::{Event, SessionsEnded, UnderWay};
use crate::session::Whose;
use crate::types::UserName;

impl App {
    /// Which agents have calls, streams or sessions, and how many.
    pub(super) fn holders(&self) -> Vec<Value> {
        let mut of: BTreeMap<String, (UnderWay, usize)> = BTreeMap::new();
        for (agent, under_way) in self.pipeline.audit.under_way() {
            of.entry(agent).or_default().0 = under_way;
        }
        for (agent, sessions) in self.pipeline.sessions.by_agent() {
            of.entry(agent.as_str().to_owned()).or_default().1 = sessions;
        }
        let holder = |(agent, (UnderWay { calls, streams }, sessions))| json!({ "agent": agent, "calls": calls, "streams": streams, "sessions": sessions });
        of.into_iter().map(holder).collect()
    }

    /// Ends them first: whoever wants them gone does not wait for a disk.
    pub(super) async fn end_sessions_for(&self, which: &WhichSessions, uid: u32) -> Result<Value, String> {
        let done = self.end_sessions(which);
        let [count, tasks] = ["ended", "tasks"].map(|what| done[what].as_u64().unwrap_or_default());
        if count == 0 && tasks == 0 {
            return Ok(done);
        }
        let sessions = which.sessions.join(" ");
        let event = Event::SessionsEnded(SessionsEnded {
            uid,
            count,
            tasks,
            sessions: Some(sessions.as_str()).filter(|sessions| !sessions.is_empty()),
            agent: which.agent.as_deref(),
            server: which.server.as_deref(),
        });
        let noted = self.pipeline.audit.note(&event).await;
        noted.map_err(|error| format!("{count} ended, but who ended them cannot be recorded: {error}"))?;
        Ok(done)
    }

    /// Tells of what was forgotten since nobody used it. What cannot be recorded now stays for the next time.
    pub(super) async fn record_forgotten(&self, forgotten: &mut Vec<(Whose, usize)>) {
        while let Some((whose, sessions)) = forgotten.first() {
            let sessions = u64::try_from(*sessions).unwrap_or(u64::MAX);
            let (agent, user) = (Some(whose.agent.as_str()), whose.user.as_ref().map(UserName::as_str));
            let event = Event::ContextsCleared { cause: "idle", uid: None, count: 1, sessions, agent, user };
            if let Err(error) = self.pipeline.audit.note(&event).await {
                tracing::error!(agent, %error, "that it is forgotten what an agent has read is not in the trail yet");
                return;
            }
            forgotten.remove(0);
        }
    }

    pub(super) fn sessions(&self) -> Value {
        let sessions = &self.pipeline.sessions;
        let read = sessions.contexts.list().into_iter().filter(|context| !context.labels.is_empty());
        json!({ "sessions": sessions.list(), "contexts": read.collect::<Vec<_>>() })
    }

    /// Clears first: what was under way must not go on with what is forgotten.
    pub(super) async fn clear_contexts(&self, agent: Option<&str>, uid: u32) -> Result<Value, String> {
        let is_meant = |whose: &Whose| agent.is_none_or(|agent| agent == whose.agent.as_str());
        let (cleared, taken) = self.pipeline.sessions.clear(is_meant);
        let [count, sessions] =
            [cleared.len(), taken.sessions].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
        self.close(taken.to_close);
        if count > 0 {
            let (cause, user) = ("operator", None);
            let event = Event::ContextsCleared { cause, uid: Some(uid), count, sessions, agent, user };
            let noted = self.pipeline.audit.note(&event).await;
            noted.map_err(|error| {
                format!("{count} cleared, but who cleared them cannot be recorded: {error}")
            })?;
        }
        Ok(json!({ "cleared": count, "sessions": sessions }))
    }
}
