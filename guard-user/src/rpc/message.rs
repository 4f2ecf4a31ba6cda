//! One JSON-RPC message from a client, read strictly and kept with its exact bytes.

use bytes::Bytes;
use http::HeaderMap;

use super::fold::is_lookalike;
use super::{Fault, FrameError, Id, Json, Target, head, json};

/// Longest method name, in bytes.
pub const METHOD_BYTES_MAX: usize = 256;

/// Longest name or URI of what a request is about, in bytes.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;

/// Names of resources and tasks in one `subscriptions/listen`; each is judged by itself.
pub(super) const LISTENED_MAX: usize = 256;

/// The first stateless revision. From here on, headers repeat what the body says.
const MODERN_SINCE: &str = "2026-07-28";

/// In `params._meta` of every stateless request.
pub(super) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// Keys that a server looks for in `params`, over all methods and revisions.
const PARAMS_KEYS: [&str; 28] = [
    "_meta",
    "argument",
    "arguments",
    "capabilities",
    "clientInfo",
    "context",
    "cursor",
    "data",
    "inputResponses",
    "level",
    "logger",
    "message",
    "name",
    "notifications",
    "progress",
    "progressToken",
    "protocolVersion",
    "reason",
    "ref",
    "requestId",
    "requestState",
    "resultType",
    "roots",
    "task",
    "taskId",
    "total",
    "uri",
    "uris",
];

const META_KEYS: [&str; 6] = [
    META_VERSION,
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
    "io.modelcontextprotocol/related-task",
    "progressToken",
];

const REF_KEYS: [&str; 3] = ["name", "type", "uri"];

/// In `params.notifications` of `subscriptions/listen`.
const LISTEN_KEYS: [&str; 5] =
    ["promptsListChanged", "resourceSubscriptions", "resourcesListChanged", "taskIds", "toolsListChanged"];

/// Programs in JavaScript that copy an object member by member make of this key's value what the copy inherits from.
const INHERITED_KEY: &str = "__proto__";

/// What a message is, by JSON-RPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Request {
        id: Id,
    },
    Notification,
    /// A client's answer to a request of the server (legacy revisions only).
    Response {
        id: Id,
    },
}

/// By which rules a single message is to be read; decided per message, since servers speak both on one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// Up to 2025-11-25: `initialize`, sessions.
    Legacy,
    /// 2026-07-28 and later: every request stands alone.
    Modern,
}

/// A message that every parser reads alike. Made by [`decode`] only.
#[derive(Debug, Clone)]
pub struct Message {
    kind: Kind,
    method: String,
    params: Option<Json>,
    progress_token: Option<Id>,
    era: Era,
    raw: Bytes,
}

/// Reads a POST body. `depth_max` bounds the nesting of arrays and objects.
pub fn decode(headers: &HeaderMap, body: Bytes, depth_max: usize) -> Result<Message, FrameError> {
    decode_within(headers, body, depth_max, &mut { json::VALUES_MAX })
}

/// The same for a message of a batch, whose messages may have so many values together.
pub(super) fn decode_within(
    headers: &HeaderMap,
    body: Bytes,
    depth_max: usize,
    values_left: &mut usize,
) -> Result<Message, FrameError> {
    head::check(headers)?;
    head::check_json(headers)?;
    let members = match json::parse_within(&body, depth_max, values_left).map_err(Fault::from)? {
        Json::Object(members) => members,
        Json::Array(_) => return Err(Fault::Batch.into()),
        _ => return Err(Fault::NotAnObject.into()),
    };
    let frame = Frame::collect(members);
    let id = frame.id.as_ref().map(Id::read).transpose().map_err(Fault::Id)?;
    let read_id = id.clone();
    let message = frame.message(id, headers, body);
    let message = message.and_then(|message| {
        let is_too_much = message.listened().len() > LISTENED_MAX;
        if is_too_much { Err(Fault::TooMuchListened { names_max: LISTENED_MAX }) } else { Ok(message) }
    });
    message.map_err(|fault| FrameError { fault, id: read_id })
}

impl Message {
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The id of a request or a response.
    pub fn id(&self) -> Option<&Id> {
        match &self.kind {
            Kind::Request { id } | Kind::Response { id } => Some(id),
            Kind::Notification => None,
        }
    }

    /// Empty for a response; never empty otherwise.
    pub fn method(&self) -> &str {
        &self.method
    }

    pub fn era(&self) -> Era {
        self.era
    }

    pub fn params(&self) -> Option<&Json> {
        self.params.as_ref()
    }

    /// `params.arguments` of a method that has some, whatever its type.
    pub fn arguments(&self) -> Option<&Json> {
        self.param("arguments").filter(|_| matches!(self.method(), "tools/call" | "prompts/get"))
    }

    /// `params._meta.progressToken`: the client takes progress notifications under it.
    pub fn progress_token(&self) -> Option<&Id> {
        self.progress_token.as_ref()
    }

    /// The exact bytes that were judged. These, and nothing made from the parsed value, go to the server.
    pub fn raw(&self) -> Bytes {
        self.raw.clone()
    }

    pub fn target(&self) -> Target<'_> {
        let text = |key| self.param(key).and_then(Json::as_str);
        match self.method.as_str() {
            "tools/call" => text("name").map_or(Target::Unnamed, Target::Tool),
            "prompts/get" => text("name").map_or(Target::Unnamed, Target::Prompt),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
                text("uri").map_or(Target::Unnamed, Target::Resource)
            }
            "tasks/get" | "tasks/result" | "tasks/update" | "tasks/cancel" => {
                text("taskId").map_or(Target::Unnamed, Target::Task)
            }
            "completion/complete" => self.param("ref").map_or(Target::Unnamed, completed),
            _ => Target::Method,
        }
    }

    /// What a `subscriptions/listen` asks for by name, each to be judged by itself: resources like a `resources/subscribe`,
    /// tasks like a `tasks/get`. What cannot be read, and what no revision knows, is [`Target::Unnamed`].
    pub fn listened(&self) -> Vec<Target<'_>> {
        let asked = match self.method.as_str() {
            "subscriptions/listen" => self.param("notifications"),
            _ => None,
        };
        match asked {
            None => Vec::new(),
            Some(Json::Object(members)) => {
                members.iter().flat_map(|(key, value)| listened_for(key, value)).collect()
            }
            Some(_) => vec![Target::Unnamed],
        }
    }

    /// Whether it brings what a server asked for in its answer to an earlier request.
    pub fn goes_on(&self) -> bool {
        self.param("requestState").is_some() || self.param("inputResponses").is_some()
    }

    /// The request that a `notifications/cancelled` is about.
    pub fn cancelled(&self) -> Option<Id> {
        let id = self.param("requestId").filter(|_| self.method == "notifications/cancelled");
        id.and_then(|id| Id::read(id).ok())
    }

    /// Whether a stateless client says that it knows this extension of the protocol.
    pub fn declares(&self, extension: &str) -> bool {
        let capabilities = self.meta("io.modelcontextprotocol/clientCapabilities");
        capabilities.and_then(|known| known.get("extensions")?.get(extension)).is_some()
    }

    pub(super) fn param(&self, key: &str) -> Option<&Json> {
        self.params.as_ref()?.get(key)
    }

    pub(super) fn meta(&self, key: &str) -> Option<&Json> {
        self.param("_meta")?.get(key)
    }
}

/// What a `completion/complete` asks about: the type alone says which member counts.
fn completed(reference: &Json) -> Target<'_> {
    let text = |key| reference.get(key).and_then(Json::as_str);
    match text("type") {
        Some("ref/prompt") => text("name").map_or(Target::Unnamed, Target::Prompt),
        Some("ref/resource") => text("uri").map_or(Target::Unnamed, Target::Resource),
        _ => Target::Unnamed,
    }
}

fn listened_for<'j>(key: &str, value: &'j Json) -> Vec<Target<'j>> {
    let named = |target: fn(&'j str) -> Target<'j>| match value {
        Json::Array(names) => {
            names.iter().map(|name| name.as_str().map_or(Target::Unnamed, target)).collect()
        }
        _ => vec![Target::Unnamed],
    };
    match key {
        "resourceSubscriptions" => named(Target::Resource),
        "taskIds" => named(Target::Task),
        "promptsListChanged" | "resourcesListChanged" | "toolsListChanged" => Vec::new(),
        _ => vec![Target::Unnamed],
    }
}

/// The members of a frame, not yet judged.
#[derive(Default)]
struct Frame {
    version: Option<Json>,
    id: Option<Json>,
    method: Option<Json>,
    params: Option<Json>,
    answers: usize,
    others: usize,
}

impl Frame {
    fn collect(members: Vec<(String, Json)>) -> Self {
        let mut frame = Self::default();
        for (key, value) in members {
            match key.as_str() {
                "jsonrpc" => frame.version = Some(value),
                "id" => frame.id = Some(value),
                "method" => frame.method = Some(value),
                "params" => frame.params = Some(value),
                "result" | "error" => frame.answers += 1,
                _ => frame.others += 1,
            }
        }
        frame
    }

    fn message(self, id: Option<Id>, headers: &HeaderMap, raw: Bytes) -> Result<Message, Fault> {
        if self.others > 0 {
            return Err(Fault::UnknownMember);
        }
        if self.version.as_ref().and_then(Json::as_str) != Some("2.0") {
            return Err(Fault::JsonRpcVersion);
        }
        let method = match self.method {
            None => None,
            Some(Json::String(method)) if !method.is_empty() => Some(method),
            Some(_) => return Err(Fault::Method),
        };
        let kind = match (&method, self.answers, id) {
            (Some(_), 0, Some(id)) => Kind::Request { id },
            (Some(_), 0, None) => Kind::Notification,
            (None, 1, Some(id)) if self.params.is_none() => Kind::Response { id },
            (None, 0, _) | (None, 1, None) => return Err(Fault::Incomplete),
            _ => return Err(Fault::Mixed),
        };
        let method = method.unwrap_or_default();
        check_text(&method, "`method`", METHOD_BYTES_MAX)?;
        let progress_token = self.params.as_ref().map(check_params).transpose()?.flatten();
        let era = era(headers, self.params.as_ref());
        Ok(Message { kind, method, params: self.params, progress_token, era, raw })
    }
}

/// Every way in which a stateless request shows itself counts: the stricter reading wins.
fn era(headers: &HeaderMap, params: Option<&Json>) -> Era {
    let version = headers.get("mcp-protocol-version").map(http::HeaderValue::as_bytes);
    let in_body = params.and_then(|params| params.get("_meta")?.get(META_VERSION)).is_some();
    let is_modern = in_body
        || headers.contains_key("mcp-method")
        || version.is_some_and(|version| version >= MODERN_SINCE.as_bytes());
    if is_modern { Era::Modern } else { Era::Legacy }
}

/// Gives the progress token, if any.
fn check_params(params: &Json) -> Result<Option<Id>, Fault> {
    let members = params.as_object().ok_or(Fault::Params)?;
    for (key, value) in members {
        if !key.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(Fault::KeyCharacters { place: "`params`" });
        }
        match (key.as_str(), value) {
            ("name", Json::String(text)) => check_text(text, "`params.name`", TARGET_BYTES_MAX)?,
            ("uri", Json::String(text)) => check_text(text, "`params.uri`", TARGET_BYTES_MAX)?,
            ("taskId", Json::String(text)) => check_text(text, "`params.taskId`", TARGET_BYTES_MAX)?,
            ("progressToken", value) => _ = Id::read(value).map_err(Fault::ProgressToken)?,
            ("requestId", value) => _ = Id::read(value).map_err(Fault::RequestId)?,
            ("ref", Json::Object(members)) => check_ref(members)?,
            ("notifications", Json::Object(members)) => {
                check_keys(members, &LISTEN_KEYS, "`params.notifications`")?;
            }
            _ => {}
        }
    }
    check_keys(members, &PARAMS_KEYS, "`params`")?;
    let Some(meta) = params.get("_meta").and_then(Json::as_object) else { return Ok(None) };
    check_keys(meta, &META_KEYS, "`params._meta`")?;
    let token = meta.iter().find(|(key, _)| key == "progressToken");
    token.map(|(_, value)| Id::read(value)).transpose().map_err(Fault::ProgressToken)
}

fn check_ref(members: &[(String, Json)]) -> Result<(), Fault> {
    check_keys(members, &REF_KEYS, "`params.ref`")?;
    for (_, value) in members {
        if let Json::String(text) = value {
            check_text(text, "`params.ref`", TARGET_BYTES_MAX)?;
        }
    }
    Ok(())
}

fn check_keys(members: &[(String, Json)], known: &[&str], place: &'static str) -> Result<(), Fault> {
    if members.iter().any(|(key, _)| key == INHERITED_KEY || is_lookalike(key, known)) {
        return Err(Fault::LookalikeKey { place });
    }
    Ok(())
}

fn check_text(text: &str, place: &'static str, bytes_max: usize) -> Result<(), Fault> {
    if text.len() > bytes_max {
        return Err(Fault::TooLong { place });
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::ControlCharacter { place });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
