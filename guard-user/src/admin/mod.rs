//! The operator's API: one JSON request line and one JSON answer line a connection, on a Unix socket that only
//! root and the guard's own user may use.

mod client;
mod handover;
mod server;

pub use client::{Error as ClientError, ask, ask_within};
pub use handover::take_over;
pub use server::{Reply, listen, serve};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::tools::Digest;

/// What an operator can ask the running guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// What is protected, and whether each claim holds. `prove` runs the canary anew first.
    Status { prove: bool },
    /// Blocks were set or taken back in the kernel: heed them and record them.
    Blocks,
    /// Read the policy, the credentials and the certificates again.
    Reload,
    /// Stop to accept, let calls under way end, pass the listeners on and go.
    HandOver,
    /// Which sessions are open, and whose.
    Sessions,
    /// End some of them, here and at their servers.
    EndSessions(WhichSessions),
    /// Forget what agents have read, and end their sessions; of this agent, or of all.
    ClearContexts { agent: Option<String> },
    /// Which velocity counts are nearest to their limits.
    Velocity {
        rows: u16,
        /// Those of these rules alone that could count a call about this; none: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        about: Option<Counted>,
    },
    /// What an agent did before a call, for its score.
    Known(Earlier),
    /// Which listeners in watched cgroups are closed.
    Listeners,
    /// Open them, or keep them closed.
    Decide(Choice),
    /// How the tools of one server stand, or of all; with what is pinned and offered.
    Tools { server: Option<String>, with_definitions: bool },
    /// Pin what the operator has seen.
    ApproveTools(ToolChoice),
    /// Remove the oldest files of the audit trail.
    Prune { before: Option<Timestamp>, force: Option<String> },
    /// Forget tools of a server, so that the next list shows them for the first time.
    ForgetTools { server: String, tools: Vec<String> },
}

/// A call that may come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    pub agent: String,
    pub server: String,
    /// What the policy counts it as, such as `tool:read_customer`.
    pub what: String,
    pub tool: Option<String>,
}

/// What an operator asks the velocity windows about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Names of rules.
    pub rules: Vec<String>,
    /// Kinds of parts with their names: what a key names of these must be just that.
    pub parts: Vec<(String, String)>,
}

/// Which definitions of a server's tools are trusted from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolChoice {
    pub server: String,
    /// Each with the digest of the definition that the operator has seen.
    pub tools: Vec<(String, Digest)>,
}

/// What becomes of which closed listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    pub approve: bool,
    /// Cookie of the namespace; none: the guard's own.
    pub netns: Option<u64>,
    pub port: Option<u16>,
    /// In place of namespace and port: all of this cgroup and of those below it.
    pub all_of: Option<String>,
    /// Approve it as a protected server of this name.
    pub name: Option<String>,
}

/// Which sessions to end: those that fit everything that is said, and none if nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhichSessions {
    /// By their names.
    pub sessions: Vec<String>,
    pub agent: Option<String>,
    pub server: Option<String>,
    /// All, as far as nothing else is said.
    pub all: bool,
}

/// Longest request line, in bytes.
const ASK_BYTES_MAX: u64 = 512 * 1024;
