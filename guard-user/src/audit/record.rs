//! What the records say. The writer puts `seq`, `prev` and `time` in front.
#![expect(clippy::ref_option_ref, reason = "serde's derive passes fields by reference")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::arguments::Arguments;
use super::inspected::Findings;
use super::merkle::sha256;
use super::{BootMoment, LINE_BYTES_MAX, TookEffect, text};
use crate::attendance::Guest;
use crate::config::{Durability, OtherPorts};
use crate::kernel::Change;
use crate::kernel::Evidence;
use crate::kernel::process::FileDigest;
use crate::policy::RuleName;
use crate::risk::Score;
use crate::rpc::Trace;
use crate::types::DecisionId;
use crate::velocity::Counted;

/// A call as the guard understood it, with what the policy said. Fields that the guard did not get as far as
/// knowing are `None`. Texts may be an attacker's; they are bounded when they are encoded.
#[derive(Debug, Clone, Serialize)]
pub struct CallRecord<'a> {
    #[serde(serialize_with = "decision_id")]
    pub id: DecisionId,
    /// The guard's number of the client connection, for telling which calls came together; none: the guard's own request.
    pub conn: Option<u64>,
    #[serde(serialize_with = "text::name")]
    pub server: &'a str,
    #[serde(serialize_with = "text::name_opt")]
    pub agent: Option<&'a str>,
    #[serde(serialize_with = "text::name_opt")]
    pub client: Option<&'a str>,
    #[serde(serialize_with = "text::name_opt")]
    pub profile: Option<&'a str>,
    /// For whom the agent works, by the word of its token's issuer.
    #[serde(serialize_with = "text::name_opt", skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// What proves the agent's name, such as `secret`.
    #[serde(serialize_with = "text::name_opt")]
    pub evidence: Option<&'a str>,
    /// Which credential, by its id in the guard's list.
    #[serde(serialize_with = "text::name_opt")]
    pub credential: Option<&'a str>,
    /// SHA-256 of the certificate that its connection showed, in hex, whether or not it was asked for.
    #[serde(serialize_with = "text::name_opt", skip_serializing_if = "Option::is_none")]
    pub certificate: Option<&'a str>,
    /// None: the guard's own request.
    pub peer: Option<SocketAddr>,
    pub original_dst: Option<SocketAddr>,
    pub local: Local<'a>,
    /// Protocol version of the request.
    #[serde(serialize_with = "text::name_opt")]
    pub era: Option<&'a str>,
    /// As the client sent it. The record gets a digest: with many servers, who knows the id has the session.
    #[serde(serialize_with = "session")]
    pub session: Option<&'a str>,
    #[serde(serialize_with = "text::name")]
    pub http_method: &'a str,
    #[serde(serialize_with = "text::name_opt")]
    pub rpc_method: Option<&'a str>,
    /// The JSON text of the request's id.
    #[serde(serialize_with = "text::name_opt")]
    pub rpc_id: Option<&'a str>,
    pub target: Option<Target<'a>>,
    /// What a tool or a prompt is called with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<&'a Arguments>,
    #[serde(serialize_with = "text::name_opt")]
    pub intent: Option<&'a str>,
    /// The call that this request goes on with, since its server asked for more input.
    #[serde(serialize_with = "decision_id_opt", skip_serializing_if = "Option::is_none")]
    pub continues: Option<DecisionId>,
    /// Why, as a code (`allowed`, `default_deny`, `velocity`, ...).
    #[serde(serialize_with = "text::name")]
    pub reason: &'a str,
    /// What the guard knows beside the reason and does not tell the one who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// Why, in the rule's words.
    #[serde(serialize_with = "text::sentence_opt")]
    pub text: Option<&'a str>,
    #[serde(serialize_with = "text::name_opt")]
    pub rule: Option<&'a str>,
    pub velocity: Option<Velocity<'a>>,
    /// The windows that counted it, for the next guard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted: Option<&'a Counted>,
    /// Rules in shadow that would have refused it.
    #[serde(skip_serializing_if = "<[RuleName]>::is_empty")]
    pub would_deny: &'a [RuleName],
    /// How risky the policy took it for, term by term.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk: Option<&'a Score>,
    /// What its answer carries, and the highest label that its agent had read before.
    #[serde(serialize_with = "text::name_opt", skip_serializing_if = "Option::is_none")]
    pub label: Option<&'a str>,
    #[serde(serialize_with = "text::name_opt", skip_serializing_if = "Option::is_none")]
    pub mark: Option<&'a str>,
    /// The trace that its client says it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<&'a Trace>,
    /// Digest of the policy version that judged the call.
    #[serde(serialize_with = "text::name_opt")]
    pub policy: Option<&'a str>,
    pub body_bytes: u64,
    /// The connection that it came by, to be told when the record is written. Not part of the record.
    #[serde(skip)]
    pub guest: Option<Arc<Guest>>,
}

/// Rules in shadow that one record names; the log has all.
pub const WOULD_DENY_MAX: usize = 16;

/// What the call is about.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Target<'a> {
    /// `tool`, `resource`, `prompt` or `method`.
    pub kind: &'a str,
    #[serde(serialize_with = "text::name")]
    pub name: &'a str,
}

/// How full the window was that the call was counted in.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Velocity<'a> {
    #[serde(serialize_with = "text::name")]
    pub rule: &'a str,
    pub count: u64,
    pub max: u64,
}

/// The process behind the connection.
#[derive(Debug, Clone, Copy)]
pub enum Local<'a> {
    Process {
        evidence: &'a Evidence,
        /// Its name, if it hands on the connections of others.
        relay: Option<&'a str>,
        /// Of its executable, if a rule asked for it.
        sha256: Option<FileDigest>,
    },
    /// The same in the guard's network namespace, seen from another one.
    Neighbour { evidence: &'a Evidence, relay: Option<&'a str> },
    /// On this host, but the kernel had no entry.
    Unknown,
    /// On another host.
    Remote,
    /// The guard itself.
    Guard,
}

/// How a call ends that is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    Deny,
    /// It needs an approval.
    Hold,
    /// The guard itself has what was asked for, and gave it.
    Tell,
}

/// How a forwarded call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// HTTP status of the server's answer, if there was one.
    pub status: Option<u16>,
    pub result: OutcomeResult,
    /// JSON-RPC error code of the answer.
    pub error_code: Option<i64>,
    /// Why the guard has no answer, or cut it off: the word of the refusal that its client was told.
    pub reason: Option<&'static str>,
    pub response_bytes: u64,
    /// Server-sent events passed on.
    pub events: u64,
    pub duration: Duration,
}

/// The outcome in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeResult {
    Ok,
    /// The tool ran and said `isError`.
    ToolError,
    RpcError,
    /// The server answered with an HTTP error and no message.
    HttpError,
    /// Nobody takes the server's events any more; the server may have finished.
    ClientGone,
    UpstreamFailed,
    /// The client left, or the guard stopped, before the server's answer was there; it may have run the call or not.
    Abandoned,
    /// A stream of events ended without an answer to wait for.
    StreamEnded,
    /// An inspection rule kept the answer back.
    Refused,
    /// The guard ended the answer: kill switch, a reload, the end of its session.
    CutOff,
}

/// What happens to the guard itself.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event<'a> {
    Start {
        #[serde(serialize_with = "text::name")]
        version: &'a str,
        pid: u32,
        durability: Durability,
        /// Names the key of the digests of arguments from here on.
        digest_key: &'a str,
        /// SHA-256 of the configuration.
        #[serde(serialize_with = "text::name")]
        config: &'a str,
        /// Which schema the records from here on follow: [`RECORD_SCHEMA`](super::RECORD_SCHEMA).
        schema: u32,
        #[serde(flatten)]
        moment: BootMoment,
    },
    /// Something in the kernel is not, or is again, as the guard left it.
    Drift {
        #[serde(serialize_with = "text::name")]
        what: &'a str,
        #[serde(serialize_with = "text::sentence")]
        text: &'a str,
        change: Change,
    },
    /// A policy took effect, and what it judges with.
    Policy(TookEffect<'a>),
    /// A listener in a watched cgroup that nobody has configured.
    Listener {
        /// `pending`, `approved` (open to everybody), `guarded` (a protected server from the next start on) or `refused`.
        state: &'a str,
        /// Cookie of its network namespace.
        netns: u64,
        address: SocketAddr,
        pid: u32,
        uid: u32,
        #[serde(serialize_with = "text::name")]
        comm: &'a str,
        #[serde(serialize_with = "text::sentence")]
        cgroup: &'a str,
        #[serde(serialize_with = "text::name_opt")]
        server: Option<&'a str>,
        /// The operator who decided.
        #[serde(skip_serializing_if = "Option::is_none")]
        by_uid: Option<u32>,
    },
    /// What became of the keys of an issuer that is asked for them.
    IssuerKeys {
        #[serde(serialize_with = "text::name")]
        issuer: &'a str,
        /// `taken` (in force from now on), `unavailable` (those from before stay in force) or `ended` (none are any more).
        state: &'a str,
        /// In force.
        keys: usize,
        /// SHA-256 over them.
        #[serde(serialize_with = "text::name_opt")]
        digest: Option<&'a str>,
        #[serde(serialize_with = "text::sentence_opt")]
        text: Option<&'a str>,
    },
    /// A protected server listens on a port that is not its own.
    OtherPort {
        #[serde(serialize_with = "text::name")]
        server: &'a str,
        /// Cookie of its network namespace.
        netns: u64,
        port: u16,
        uid: u32,
        /// `report`, `protect` or `deny`: what became of it.
        done: OtherPorts,
    },
    /// An operator ended sessions.
    SessionsEnded(SessionsEnded<'a>),
    /// What agents have read was forgotten.
    ContextsCleared {
        /// `operator`, or `idle`: it was not used for `limits.context_idle_seconds`.
        cause: &'a str,
        /// The operator.
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        count: u64,
        /// Sessions that were ended with them.
        sessions: u64,
        #[serde(serialize_with = "text::name_opt")]
        agent: Option<&'a str>,
        /// For whom the agent worked, if one context is meant.
        #[serde(serialize_with = "text::name_opt", skip_serializing_if = "Option::is_none")]
        user: Option<&'a str>,
    },
    /// What became of a tool's definition.
    Tool(ToolChange<'a>),
    /// A session of HTTP+SSE was ended here. Its stream ends with it, so that its server need not be told.
    SessionEnded {
        #[serde(serialize_with = "self::session")]
        session: Option<&'a str>,
        #[serde(serialize_with = "text::name")]
        server: &'a str,
        #[serde(serialize_with = "text::name")]
        agent: &'a str,
        /// `session_idle`, `session_too_old`, `sessions_too_many` or `session_ended`.
        reason: &'a str,
    },
    /// The kill switch holds for something: set now, or found at the start.
    Blocked(Block<'a>),
    /// It holds no more.
    Unblocked(Block<'a>),
    /// A kernel program refused a system call.
    Denied {
        /// `bind`, `connect`, `send` or `blocked`.
        reason: &'a str,
        address: SocketAddr,
        /// IP protocol number.
        protocol: u8,
        pid: u32,
        uid: u32,
        #[serde(serialize_with = "text::name")]
        comm: &'a str,
        /// cgroup2 path; none if the process was gone.
        #[serde(serialize_with = "text::sentence_opt")]
        cgroup: Option<&'a str>,
        cgroup_id: u64,
        /// The server whose hold or lock it met.
        #[serde(serialize_with = "text::sentence_opt")]
        server: Option<&'a str>,
    },
}

/// Which sessions an operator ended: those that fit all that is said, or simply all.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SessionsEnded<'a> {
    /// The user who ended them.
    pub uid: u32,
    pub count: u64,
    /// Tasks that were forgotten with them.
    pub tasks: u64,
    /// Their names, with a blank between them.
    #[serde(serialize_with = "text::sentence_opt")]
    pub sessions: Option<&'a str>,
    #[serde(serialize_with = "text::name_opt")]
    pub agent: Option<&'a str>,
    #[serde(serialize_with = "text::name_opt")]
    pub server: Option<&'a str>,
}

/// A step in the life of a tool's definition.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ToolChange<'a> {
    #[serde(serialize_with = "text::name")]
    pub server: &'a str,
    #[serde(serialize_with = "text::name")]
    pub tool: &'a str,
    /// `first_sight`, `new`, `held`, `back`, `cosmetic`, `approved`, `flagged`, `forgotten` or `no_room`.
    pub change: &'a str,
    /// Of the definition that is offered, or was pinned now.
    #[serde(serialize_with = "text::name_opt")]
    pub digest: Option<&'a str>,
    /// Of the one that was pinned before.
    #[serde(serialize_with = "text::name_opt")]
    pub before: Option<&'a str>,
    /// What looks wrong in it, or why it cannot be read.
    #[serde(serialize_with = "text::sentence_opt")]
    pub text: Option<&'a str>,
    /// The user who approved it, or had it forgotten.
    pub uid: Option<u32>,
    /// Steps of this server's tools before this one that are not in the trail: there were too many.
    pub unrecorded: u64,
}

/// One block of the kill switch.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Block<'a> {
    /// `all`, `server`, `agent` or `cgroup`.
    pub what: &'a str,
    #[serde(serialize_with = "text::sentence")]
    pub name: &'a str,
    #[serde(serialize_with = "text::sentence")]
    pub reason: &'a str,
    /// Milliseconds since 1970.
    pub since: u64,
    /// The user who set it.
    pub uid: u32,
}

/// The first record of a trail.
#[derive(Serialize)]
#[serde(tag = "kind", rename = "genesis")]
pub(super) struct Genesis<'a> {
    pub(super) format: u32,
    pub(super) chain: &'a str,
    pub(super) host: &'a str,
    pub(super) origin: &'a str,
    pub(super) durability: Durability,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename = "stop")]
pub(super) struct Stop {
    /// Forwarded calls without an outcome at this moment.
    pub(super) open_count: usize,
}

/// A signed checkpoint of all records before this one.
#[derive(Serialize)]
#[serde(tag = "kind", rename = "checkpoint")]
pub(super) struct Embedded<'a> {
    pub(super) note: &'a str,
}

/// What the trail does not hold, and why.
#[derive(Serialize)]
#[serde(tag = "kind", rename = "gap")]
pub(super) struct Gap<'a> {
    /// `restart`: calls were under way when the last guard ended. `write_failed`: the disk refused records. `disk_full`: there
    /// was room for those of the guard's own alone.
    pub(super) reason: &'a str,
    #[serde(serialize_with = "text::sentence_opt")]
    pub(super) cause: Option<&'a str>,
    /// The last record that is known to be on disk; unknown with durability `os`.
    pub(super) durable_seq: Option<u64>,
    /// Requests refused meanwhile because their record could not be written.
    pub(super) refused: u64,
    /// Forwarded calls whose outcome will never be known; the first [`GAP_CALLS_MAX`] are named in `open`.
    pub(super) open_count: usize,
    pub(super) open: Vec<OpenCall<'a>>,
    /// Bytes of an unfinished last line that were moved aside.
    pub(super) torn_bytes: u64,
    /// Their SHA-256.
    pub(super) torn_sha256: Option<String>,
}

#[derive(Serialize)]
pub(super) struct OpenCall<'a> {
    pub(super) id: &'a str,
    pub(super) seq: u64,
}

/// Calls that one gap record names. 16 in flight are usual; 4,096 would not fit a line.
pub(super) const GAP_CALLS_MAX: usize = 256;

#[derive(Serialize)]
#[serde(tag = "kind", rename = "call")]
struct Call<'a> {
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_status: Option<u16>,
    #[serde(flatten)]
    fields: &'a CallRecord<'a>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename = "outcome")]
struct Closing<'a> {
    #[serde(serialize_with = "decision_id")]
    id: DecisionId,
    call_seq: u64,
    status: Option<u16>,
    result: OutcomeResult,
    error_code: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    response_bytes: u64,
    events: u64,
    duration_micros: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    inspected: Option<&'a Findings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_digest: Option<&'a str>,
}

/// Bytes that a line has before its body, at most, and some to spare.
const PREFIX_ROOM: usize = 1024;

/// With the digest of its arguments alone where it would be longer than a line can be: no agent can make its own record impossible.
fn encoded(call: &Call<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let line = text::encode(call)?;
    let Some(arguments) = call.fields.arguments.filter(|_| line.len() > LINE_BYTES_MAX - PREFIX_ROOM) else {
        return Ok(line);
    };
    let arguments = arguments.without_values();
    text::encode(&Call {
        fields: &CallRecord { arguments: Some(&arguments), ..call.fields.clone() },
        ..*call
    })
}

pub(super) fn allowed(call: &CallRecord<'_>) -> Result<Vec<u8>, serde_json::Error> {
    encoded(&Call { decision: "allow", http_status: None, fields: call })
}

pub(super) fn refused(
    call: &CallRecord<'_>,
    refusal: Refusal,
    http_status: u16,
) -> Result<Vec<u8>, serde_json::Error> {
    let decision = match refusal {
        Refusal::Deny => "deny",
        Refusal::Hold => "hold",
        Refusal::Tell => "tell",
    };
    encoded(&Call { decision, http_status: Some(http_status), fields: call })
}

pub(super) fn closing(
    (id, call_seq): (DecisionId, u64),
    outcome: &Outcome,
    inspected: Option<&Findings>,
    result_digest: Option<&str>,
) -> Result<Vec<u8>, serde_json::Error> {
    text::encode(&Closing {
        id,
        call_seq,
        status: outcome.status,
        result: outcome.result,
        error_code: outcome.error_code,
        reason: outcome.reason.or((outcome.result == OutcomeResult::Refused).then_some("result_refused")),
        response_bytes: outcome.response_bytes,
        events: outcome.events,
        duration_micros: u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX),
        inspected,
        result_digest: result_digest.filter(|_| outcome.result.is_of_the_server()),
    })
}

impl OutcomeResult {
    /// The client was given what the server answered.
    fn is_of_the_server(self) -> bool {
        matches!(self, Self::Ok | Self::ToolError | Self::RpcError)
    }
}

impl Outcome {
    /// Of a call that the guard gave up.
    pub fn abandoned() -> Self {
        Self {
            status: None,
            result: OutcomeResult::Abandoned,
            error_code: None,
            reason: None,
            response_bytes: 0,
            events: 0,
            duration: Duration::ZERO,
        }
    }
}

impl Serialize for Local<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unknown => to.serialize_str("unknown"),
            Self::Remote => to.serialize_str("remote"),
            Self::Guard => to.serialize_str("guard"),
            Self::Process { evidence, relay, sha256 } => process(evidence, *relay, *sha256).serialize(to),
            Self::Neighbour { evidence, relay } => {
                Process { across_namespaces: true, ..process(evidence, *relay, None) }.serialize(to)
            }
        }
    }
}

/// What is known of a process; what is not is left out.
#[derive(Serialize)]
struct Process<'a> {
    pid: u32,
    uid: u32,
    gid: u32,
    cgroup: u64,
    comm: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_milliseconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text::sentence_opt")]
    cgroup_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text::sentence_opt")]
    executable: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    across_namespaces: bool,
}

fn process<'a>(evidence: &'a Evidence, relay: Option<&'a str>, sha256: Option<FileDigest>) -> Process<'a> {
    let Evidence { process, cgroup_path, place, running } = evidence;
    let executable = running.as_ref().and_then(|running| running.executable.as_ref());
    Process {
        pid: process.pid,
        uid: process.uid,
        gid: process.gid,
        cgroup: process.cgroup,
        // The kernel gives at most 15 bytes; the type does not say so.
        comm: process.comm.get(..64).unwrap_or(&process.comm),
        state: if running.is_some() { "running" } else { "exited" },
        started_milliseconds: running.as_ref().map(|running| running.started_milliseconds),
        cgroup_path: cgroup_path.as_deref(),
        unit: place.unit.as_ref().map(ToString::to_string),
        container: place.container.as_ref().map(ToString::to_string),
        executable: executable.map(|executable| executable.path.as_str()),
        sha256: sha256.map(hex::encode),
        relay,
        across_namespaces: false,
    }
}

/// The first 8 bytes of the id's SHA-256: enough to tell which calls belong together.
fn session<S: Serializer>(id: &Option<&str>, to: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => {
            let digest = hex::encode(sha256(&[id.as_bytes()]));
            to.serialize_str(digest.get(..16).unwrap_or_default())
        }
        None => to.serialize_none(),
    }
}

#[expect(clippy::ref_option, reason = "serde's derive passes fields by reference")]
fn decision_id_opt<S: Serializer>(id: &Option<DecisionId>, to: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => to.collect_str(id),
        None => to.serialize_none(),
    }
}

fn decision_id<S: Serializer>(id: &DecisionId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

#[cfg(test)]
pub(super) mod tests;
