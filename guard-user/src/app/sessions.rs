//! Who holds what, and sessions that an operator ends, with the record of who it was.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::App;
use crate::admin::WhichSessions;
use crate::audit::{Event, SessionsEnded, UnderWay};

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
}
