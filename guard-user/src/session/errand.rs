//! Requests that the guard makes of a server in its own name, each because of a session.

use http::HeaderMap;
use tokio::sync::mpsc;

use super::{Ended, Owner, Reason};
use crate::kernel::Door;
use crate::types::ServerName;

/// Errands that may wait; one more is dropped, with a line in the log.
const ERRANDS_MAX: usize = 1024;

/// What is to be done.
#[derive(Debug)]
pub struct Errand {
    pub server: ServerName,
    pub door: Door,
    /// On whose behalf.
    pub owner: Owner,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    /// Tell the server that its session is over.
    Close { head: HeaderMap, reason: Reason },
    /// Answer a server's request, which the policy refuses, in the client's place.
    Refuse {
        /// Of the request in whose answer it came.
        head: HeaderMap,
        /// Where its client would post the answer; none: the server's endpoint.
        path: Option<String>,
        /// The JSON text of its id.
        id: String,
        method: String,
    },
}

/// Where errands are left. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Errands(mpsc::Sender<Errand>);

impl Errands {
    /// The other end is for the one task that does them.
    pub fn new() -> (Self, mpsc::Receiver<Errand>) {
        let (leave, take) = mpsc::channel(ERRANDS_MAX);
        (Self(leave), take)
    }

    pub fn leave(&self, errand: Errand) {
        if let Err(error) = self.0.try_send(errand) {
            tracing::warn!(%error, "a server was not told: too much else is to be done");
        }
    }
}

impl From<Ended> for Errand {
    fn from(ended: Ended) -> Self {
        let head = ended.head();
        let Ended { server, owner, door, reason, .. } = ended;
        Self { server, door, owner, what: What::Close { head, reason } }
    }
}
