//! What a refusal looks like to the one who asked.
//!
//! A refused `tools/call` is a tool result with `isError`, since models read those and every client library survives
//! them; other requests get a JSON-RPC error with HTTP 200. HTTP errors are for what is no request at all.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, UPGRADE,
    WWW_AUTHENTICATE,
};
use http::uri::Authority;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::challenge;
use super::link::{Link, event};
use crate::config::Server;
use crate::http::Body;
use crate::policy::is_protocol_method;
use crate::refusal::{Advice, Approval, Refusal};
use crate::rpc::{Era, Id, Kind, Message, Target};
use crate::session::NotYours;
use crate::types::DecisionId;

/// Where the machine-readable twin of a refusal's text stands: in a result's `_meta` or an error's `data`.
const DECISION_KEY: &str = "mcp-guard/decision";

/// Methods that name a target and that 2026-07-28 no longer has.
const REMOVED_METHODS: [&str; 4] =
    ["resources/subscribe", "resources/unsubscribe", "tasks/list", "tasks/result"];

/// The extension that a stateless client declares before it may ask for tasks.
const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";

const INVALID_PARAMS: i32 = -32602;
const METHOD_NOT_FOUND: i32 = -32601;
const MISSING_CAPABILITY: i32 = -32021;
/// What a resource that is not there was called before it became an invalid parameter in 2026-07-28.
const RESOURCE_NOT_FOUND: i32 = -32002;

/// What a refusal has to fit: the request, as far as it was read.
#[derive(Debug, Clone)]
pub struct Asked {
    pub decision: DecisionId,
    pub what: What,
    pub era: Era,
    /// The client takes an event stream and no plain JSON.
    events_only: bool,
}

#[derive(Debug, Clone)]
pub enum What {
    /// GET, DELETE, or nothing readable.
    Http,
    ToolCall {
        id: Id,
        tool: String,
    },
    Request {
        id: Id,
        absent: Absent,
    },
    /// A notification, or a client's answer to the server: nothing waits for a reply.
    OneWay,
}

/// What is not there for an agent from which the target is hidden.
#[derive(Debug, Clone)]
pub enum Absent {
    Prompt(String),
    Resource(String),
    /// The method itself
    Method,
    /// A task, of which the client has not said that it knows tasks.
    UndeclaredTask,
    /// Nothing that could be named: the method is the protocol's own, or names no target.
    Nothing,
}

/// How clients reach and trust this guard, for answers that tell them.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// The local CA; none if the operator brought the certificate.
    pub ca_file: Option<PathBuf>,
}

impl Asked {
    pub fn unread(decision: DecisionId, head: &HeaderMap) -> Self {
        Self { decision, what: What::Http, era: Era::Legacy, events_only: takes_events_only(head) }
    }

    /// The same, for a client that looks for no message in the answer, but at its status.
    #[must_use]
    pub fn by_status(&self) -> Self {
        let what = if matches!(self.what, What::OneWay) { What::OneWay } else { What::Http };
        Self { what, ..self.clone() }
    }

    /// The same, now that the message is known.
    pub fn read(&mut self, message: &Message) {
        self.era = message.era();
        self.what = match (message.kind(), message.target()) {
            (Kind::Request { id }, Target::Tool(tool)) => {
                What::ToolCall { id: id.clone(), tool: tool.to_owned() }
            }
            (Kind::Request { id }, _) => What::Request { id: id.clone(), absent: Absent::of(message) },
            (Kind::Notification | Kind::Response { .. }, _) => What::OneWay,
        };
    }
}

impl Absent {
    fn of(message: &Message) -> Self {
        let is_removed = message.era() == Era::Modern && REMOVED_METHODS.contains(&message.method());
        match message.target() {
            _ if is_removed => Self::Method,
            Target::Prompt(name) => Self::Prompt(name.to_owned()),
            Target::Resource(uri) => Self::Resource(uri.to_owned()),
            // Without a grant these are refused too, but every server has them: a client that is told otherwise takes
            // the server for one of another revision.
            Target::Method if !is_protocol_method(message.method()) => Self::Method,
            Target::Task(_) if message.era() == Era::Modern && !message.declares(TASKS_EXTENSION) => {
                Self::UndeclaredTask
            }
            Target::Tool(_)
            | Target::Task(_)
            | Target::ServerRequest(_)
            | Target::Method
            | Target::Unnamed => Self::Nothing,
        }
    }
}

/// The answer to a refused request.
pub fn refuse(
    asked: &Asked,
    refusal: &Refusal,
    server: &Server,
    site: &Site,
    head: &HeaderMap,
) -> Response<Body> {
    if matches!(refusal, Refusal::Plaintext) {
        return upgrade_required(server, site, head);
    }
    if let Some(authorize) = &server.authorize
        && let Some((status, value)) = challenge::of(refusal, authorize)
    {
        let mut response = http_error(asked, refusal);
        *response.status_mut() = status;
        response.headers_mut().insert(WWW_AUTHENTICATE, value);
        return response;
    }
    match message(asked, refusal) {
        Some(message) if is(&message, METHOD_NOT_FOUND) => json_body(StatusCode::NOT_FOUND, &message),
        Some(message) if is(&message, MISSING_CAPABILITY) => json_body(StatusCode::BAD_REQUEST, &message),
        Some(message) if !refusal.is_about_http() => in_band(asked, &message),
        _ if matches!(asked.what, What::OneWay) && !refusal.is_about_http() => {
            status(StatusCode::ACCEPTED, Body::empty())
        }
        _ => http_error(asked, refusal),
    }
}

/// The same on a stream of HTTP+SSE; none if nothing waits for an answer. A client that does not take what is on its stream
/// already learns it by an HTTP error, since in any other answer to its POST it looks for no message.
pub fn refuse_on(link: &Link, asked: &Asked, refusal: &Refusal) -> Option<Response<Body>> {
    let message = message(asked, refusal)?;
    Some(if link.tell(&message) {
        status(StatusCode::ACCEPTED, Body::empty())
    } else {
        json_body(StatusCode::SERVICE_UNAVAILABLE, &message)
    })
}

/// An error event about a server's answer in which no message could be read.
pub fn http_failure(id: &Id, status: StatusCode) -> Bytes {
    let message = format!("the server answered with HTTP {} and no message", status.as_u16());
    let error = json!({ "code": 50_200, "message": message });
    event(&json!({ "jsonrpc": "2.0", "id": id, "error": error }))
}

/// The JSON-RPC message that answers a refused request; none if nothing waits for one.
pub(super) fn message(asked: &Asked, refusal: &Refusal) -> Option<Value> {
    let (id, member, value) = match &asked.what {
        What::ToolCall { id, tool } => match refusal {
            Refusal::Denied(deny) if deny.is_hidden() => (id, "error", unknown_tool(tool)),
            _ => (id, "result", tool_error(asked, refusal, tool)),
        },
        What::Request { id, absent } => {
            let hidden = match refusal {
                Refusal::Denied(deny) => deny.is_hidden(),
                Refusal::NotYours(NotYours::Task(_)) => true,
                _ => false,
            };
            let unknown = hidden.then(|| unknown(asked, absent, refusal)).flatten();
            (id, "error", unknown.unwrap_or_else(|| error(asked, refusal)))
        }
        What::OneWay | What::Http => return None,
    };
    Some(json!({ "jsonrpc": "2.0", "id": id, member: value }))
}

fn is(message: &Value, code: i32) -> bool {
    message["error"]["code"] == code
}

/// What servers say of a tool that they do not have: an agent cannot tell a hidden tool from none.
fn unknown_tool(tool: &str) -> Value {
    json!({ "code": INVALID_PARAMS, "message": format!("Unknown tool: {tool}") })
}

/// The same of other things. A method is no secret: the code tells clients of a stateless server that they do without
/// it, and the words say why. In sessions the guard's own code does.
fn unknown(asked: &Asked, absent: &Absent, refusal: &Refusal) -> Option<Value> {
    Some(match absent {
        Absent::Prompt(name) => {
            json!({ "code": INVALID_PARAMS, "message": format!("Unknown prompt: {name}") })
        }
        Absent::Resource(uri) => {
            let code = if asked.era == Era::Modern { INVALID_PARAMS } else { RESOURCE_NOT_FOUND };
            json!({ "code": code, "message": "Resource not found", "data": { "uri": uri } })
        }
        Absent::Method if asked.era == Era::Modern => {
            let mut error = error(asked, refusal);
            error["code"] = METHOD_NOT_FOUND.into();
            error
        }
        Absent::UndeclaredTask => json!({
            "code": MISSING_CAPABILITY,
            "message": "Missing required client capability",
            "data": { "requiredCapabilities": { "extensions": { TASKS_EXTENSION: {} } } },
        }),
        Absent::Method | Absent::Nothing => return None,
    })
}

fn tool_error(asked: &Asked, refusal: &Refusal, tool: &str) -> Value {
    let mut result = json!({
        "content": [{ "type": "text", "text": text(asked, refusal, &format!("the call of {tool}")) }],
        "isError": true,
        "_meta": { DECISION_KEY: decision(asked, refusal) },
    });
    if asked.era == Era::Modern {
        result["resultType"] = "complete".into();
    }
    result
}

fn error(asked: &Asked, refusal: &Refusal) -> Value {
    json!({
        "code": refusal.code(),
        "message": text(asked, refusal, "this request"),
        "data": { DECISION_KEY: decision(asked, refusal) },
    })
}

/// Written for a model: what was refused, why, and whether another try helps.
fn text(asked: &Asked, refusal: &Refusal, what: &str) -> String {
    let advice = match (refusal.advice(), refusal) {
        (Advice::Final, _) => "Trying again will not help.".to_owned(),
        (Advice::After(wait), _) => format!("It may be tried again in {} s.", whole_seconds(wait)),
        (Advice::Approval, Refusal::NeedsApproval(approval)) if leaves_reviewers_unnamed(approval) => {
            format!("It needs the approval of {}.", approval.reviewers.join(" or "))
        }
        (Advice::Approval, _) => "Trying again will not help before a person has approved it.".to_owned(),
        (Advice::Mend, _) => "Tell the people who run this server; a later try may pass.".to_owned(),
    };
    let reason = refusal.to_string();
    let reason = reason.trim_end_matches('.');
    format!("mcp-guard refused {what}: {reason}. {advice} (decision {})", asked.decision)
}

/// Without a reason of its own, a rule's reason is who must approve; once is enough.
fn leaves_reviewers_unnamed(approval: &Approval) -> bool {
    !approval.reviewers.is_empty() && !approval.reviewers.iter().all(|name| approval.reason.contains(name))
}

fn decision(asked: &Asked, refusal: &Refusal) -> Value {
    let mut decision = json!({ "id": asked.decision.to_string(), "reason": refusal.reason() });
    if let Some(rule) = refusal.rule() {
        decision["rule"] = rule.as_str().into();
    }
    if let Advice::After(wait) = refusal.advice() {
        decision["retryAfterMs"] = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).into();
    }
    decision
}

/// Never zero: "in 0 s" reads like "now".
fn whole_seconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

/// A JSON-RPC answer with HTTP 200, in the form that the client takes.
fn in_band(asked: &Asked, message: &Value) -> Response<Body> {
    if !asked.events_only {
        return json_body(StatusCode::OK, message);
    }
    let mut response = status(StatusCode::OK, Body::whole(format!("event: message\ndata: {message}\n\n")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn http_error(asked: &Asked, refusal: &Refusal) -> Response<Body> {
    let id = match (refusal, &asked.what) {
        (Refusal::Frame(frame), _) => frame.id.as_ref(),
        (_, What::ToolCall { id, .. } | What::Request { id, .. }) => Some(id),
        _ => None,
    };
    let message = json!({ "jsonrpc": "2.0", "id": id, "error": error(asked, refusal) });
    let mut response = json_body(refusal.status(), &message);
    if matches!(refusal, Refusal::Method) {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, GET, DELETE"));
    }
    response
}

fn upgrade_required(server: &Server, site: &Site, head: &HeaderMap) -> Response<Body> {
    // The host is the client's word: it goes back only if it is one.
    let host = head.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let host = host.as_ref().map_or("localhost", Authority::host);
    let trust = site.ca_file.as_ref().map_or(String::new(), |file| {
        let file = file.display();
        format!(
            "Clients must trust the CA certificate in {file} on this host\n\
             (NODE_EXTRA_CA_CERTS for Node.js, SSL_CERT_FILE for Python and Rust clients).\n"
        )
    });
    let body = format!(
        "mcp-guard protects this port, and it takes HTTPS only.\nUse https://{host}:{}{} instead.\n{trust}",
        server.port, server.path
    );
    let mut response = status(StatusCode::UPGRADE_REQUIRED, Body::whole(body));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(UPGRADE, HeaderValue::from_static("TLS/1.3, HTTP/1.1"));
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade, close"));
    response
}

/// A document of the guard's own.
pub fn document(document: &Value) -> Response<Body> {
    json_body(StatusCode::OK, document)
}

fn json_body(code: StatusCode, message: &Value) -> Response<Body> {
    let mut response = status(code, Body::whole(message.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn status(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The client names an event stream, but neither JSON nor anything.
fn takes_events_only(head: &HeaderMap) -> bool {
    let takes = |kinds: &[&str]| {
        let mut values = head.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| kinds.iter().any(|kind| value.contains(kind)))
    };
    takes(&["text/event-stream"]) && !takes(&["application/json", "application/*", "*/*"])
}
