//! Sessions that an operator ends, and the record of who it was.

use serde_json::Value;

use super::App;
use crate::admin::WhichSessions;
use crate::audit::{Event, SessionsEnded};

impl App {
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
