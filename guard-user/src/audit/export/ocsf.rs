//! Open Cybersecurity Schema Framework 1.9: calls and their outcomes as API Activity (6003) with the profiles `ai_operation`,
//! `security_control` and `record_integrity`, starts and stops as Application Lifecycle (6002), everything else as Base Event (0).
//!
//! The events of one cursor are a chain: each names the fingerprint of the one before, which is SHA-256 over the event in canonical JSON (RFC
//! 8785) without its own fingerprint.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::entry::Entry;
use crate::audit::merkle::sha256;

const VERSION: &str = "1.9.0";
const VENDOR: &str = "mcp-guard";
/// Largest whole number that each reader of JSON has exactly.
const EXACT_MAX: u64 = 1 << 53;
/// Score from which on a call is an alert, whatever became of it.
const RISK_HIGH: u64 = 60;
/// Fields of a call and its outcome that have a place of their own in the event.
const PLACED: &str = "id server agent client user credential peer original_dst session rpc_method target reason text rule policy risk label decision status";

/// An event that was made, for the next one to name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    uid: String,
    type_uid: u32,
    fingerprint: String,
}

/// The event, and what the next one is to name.
pub(super) fn event(
    entry: &Entry<'_>,
    origin: &str,
    authority: &str,
    before: Option<&Made>,
) -> (Value, Made) {
    let class = Class::of(entry);
    let uid = format!("{origin}:{}", entry.seq);
    let mut event = Object::default();
    class.put(&mut event);
    let (severity, severity_name) = entry.severity().ocsf();
    event.put("severity_id", severity);
    event.put("severity", severity_name);
    event.put("time", entry.millis);
    event.put("message", entry.text("text").map_or_else(|| entry.told().into_owned(), str::to_owned));
    event.put("metadata", metadata(entry, &uid));
    match class {
        Class::Activity(_) => activity(entry, &mut event),
        Class::Lifecycle(_) => {
            let version = env!("CARGO_PKG_VERSION");
            event.put("application", json!({"name": "mcp-guard", "version": version, "product": product()}));
            // What it was until 1.9, which has both.
            event.put("app", product());
        }
        Class::Base => {}
    }
    let unmapped = unmapped(entry);
    if !unmapped.is_empty() {
        event.put("unmapped", unmapped);
    }
    let mut attestation = Object::default();
    attestation.put("uid", &*uid);
    attestation.put("chain_uid", origin);
    attestation.put("authority_uid", authority);
    if let Some(before) = before {
        let fingerprint = fingerprint(&before.fingerprint);
        attestation.put(
            "prev_event",
            json!({"uid": before.uid, "type_uid": before.type_uid, "fingerprint": fingerprint}),
        );
    }
    event.put("attestation_list", [&attestation.0]);
    let digest = hex::encode(sha256(&[&canonical(&Value::Object(event.0.clone()))]));
    attestation.put("fingerprint", fingerprint(&digest));
    event.put("attestation_list", [&attestation.0]);
    (Value::Object(event.0), Made { uid, type_uid: class.type_uid(), fingerprint: digest })
}

fn fingerprint(digest: &str) -> Value {
    json!({
        "algorithm": "SHA-256", "algorithm_id": 3, "encoding": "Hex", "encoding_id": 1, "serialization": "JCS", "serialization_id": 2, "value": digest,
    })
}

/// In canonical JSON. Names are ASCII and numbers are whole and exact here, so that sorting is all there is to it.
pub(super) fn canonical(value: &Value) -> Vec<u8> {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let fields: BTreeMap<_, _> = fields.iter().collect();
                fields
                    .into_iter()
                    .map(|(name, value)| (name.clone(), sorted(value)))
                    .collect::<Map<_, _>>()
                    .into()
            }
            Value::Array(values) => values.iter().map(sorted).collect::<Vec<_>>().into(),
            other => other.clone(),
        }
    }
    sorted(value).to_string().into_bytes()
}

/// An object without what is not known.
#[derive(Default)]
struct Object(Map<String, Value>);

impl Object {
    fn put(&mut self, name: &str, value: impl Serialize) {
        match serde_json::to_value(value) {
            Ok(Value::Null) | Err(_) => {}
            Ok(value) => {
                self.0.insert(name.to_owned(), value);
            }
        }
    }

    fn of<const N: usize>(fields: [(&str, Option<&Value>); N]) -> Option<Value> {
        let mut object = Self::default();
        for (name, value) in fields {
            object.put(name, value);
        }
        (!object.0.is_empty()).then_some(Value::Object(object.0))
    }
}

#[derive(Clone, Copy)]
enum Class<'a> {
    /// With the method of JSON-RPC, if there was one.
    Activity(Option<&'a str>),
    /// Whether it is a start.
    Lifecycle(bool),
    Base,
}

impl<'a> Class<'a> {
    fn of(entry: &Entry<'a>) -> Self {
        match entry.kind {
            "call" | "outcome" => Self::Activity(entry.text("rpc_method")),
            "start" => Self::Lifecycle(true),
            "stop" => Self::Lifecycle(false),
            _ => Self::Base,
        }
    }

    /// `class_uid`, its name, that of the category, `activity_id` and its name.
    fn numbers(self) -> (u32, &'static str, &'static str, u32, &'a str) {
        let (activity, name) = match self {
            Self::Activity(Some("resources/read")) => (2, "Read"),
            Self::Activity(Some(method)) => (99, method),
            Self::Activity(None) => (0, "Unknown"),
            Self::Lifecycle(true) => (3, "Start"),
            Self::Lifecycle(false) => (4, "Stop"),
            Self::Base => (99, "Other"),
        };
        match self {
            Self::Activity(_) => (6003, "API Activity", "Application Activity", activity, name),
            Self::Lifecycle(_) => (6002, "Application Lifecycle", "Application Activity", activity, name),
            Self::Base => (0, "Base Event", "Uncategorized", activity, name),
        }
    }

    fn type_uid(self) -> u32 {
        let (class, _, _, activity, _) = self.numbers();
        class * 100 + activity
    }

    fn put(self, event: &mut Object) {
        let (class, class_name, category_name, activity, activity_name) = self.numbers();
        event.put("category_uid", class / 1000);
        event.put("category_name", category_name);
        event.put("class_uid", class);
        event.put("class_name", class_name);
        event.put("activity_id", activity);
        event.put("activity_name", activity_name);
        event.put("type_uid", self.type_uid());
        event.put("type_name", format!("{class_name}: {activity_name}"));
    }
}

fn product() -> Value {
    json!({"name": "mcp-guard", "vendor_name": VENDOR, "version": env!("CARGO_PKG_VERSION")})
}

fn metadata(entry: &Entry<'_>, uid: &str) -> Value {
    let mut metadata = Object::default();
    metadata.put("version", VERSION);
    metadata.put("product", product());
    metadata.put("uid", uid);
    metadata.put("sequence", entry.seq);
    metadata.put("log_name", "audit");
    metadata.put("original_time", entry.own("time"));
    metadata.put("event_code", format!("{}:{}", entry.kind, entry.verdict()));
    // Both records of a call have its id.
    metadata.put("correlation_uid", entry.own("id"));
    let profiles: &[&str] = match entry.kind {
        "call" | "outcome" => &["ai_operation", "security_control", "record_integrity"],
        _ => &["record_integrity"],
    };
    metadata.put("profiles", profiles);
    Value::Object(metadata.0)
}

fn activity(entry: &Entry<'_>, event: &mut Object) {
    let (status, status_name) = status(entry);
    event.put("status_id", status);
    event.put("status", status_name);
    event.put("status_code", entry.own("reason").or_else(|| entry.own("result")));
    let (action, disposition) = match (entry.kind, entry.verdict()) {
        _ if entry.is_kept_back() => ((2, "Denied"), (2, "Blocked")),
        // Calls that were not let through have none.
        ("outcome", _) | ("call", "allow" | "tell") => ((1, "Allowed"), (1, "Allowed")),
        ("call", "deny") => ((2, "Denied"), (2, "Blocked")),
        ("call", "hold") => ((2, "Denied"), (99, "Held")),
        _ => ((0, "Unknown"), (0, "Unknown")),
    };
    let is_risky = entry.kind == "call" && entry.risk().is_some_and(|score| score >= RISK_HIGH);
    event.put("is_alert", action.0 == 2 || is_risky);
    event.put("action_id", action.0);
    event.put("action", action.1);
    event.put("disposition_id", disposition.0);
    event.put("disposition", disposition.1);
    event.put("policy", Object::of([("name", entry.of_call("rule")), ("uid", entry.of_call("policy"))]));
    if let Some(score) = entry.risk() {
        let (id, name) = match score {
            0..20 => (0, "Info"),
            20..40 => (1, "Low"),
            40..RISK_HIGH => (2, "Medium"),
            RISK_HIGH..80 => (3, "High"),
            _ => (4, "Critical"),
        };
        event.put("risk_score", score);
        event.put("risk_level_id", id);
        event.put("risk_level", name);
        event.put("risk_details", entry.within("risk", "terms").map(Value::to_string));
    }
    if let Some(agent) = entry.of_call("agent").filter(|agent| !agent.is_null()) {
        let mut object = Object::default();
        object.put("uid", agent);
        object.put("name", agent);
        object.put("type_id", 0);
        object.put("instance_uid", entry.of_call("session"));
        event.put("ai_agent", object.0);
    }
    event.put("actor", actor(entry));
    event.put("api", api(entry));
    event.put("src_endpoint", endpoint(entry, "peer").unwrap_or_else(|| json!({"name": source(entry)})));
    let mut target =
        Object(endpoint(entry, "original_dst").and_then(|end| end.as_object().cloned()).unwrap_or_default());
    target.put("svc_name", entry.of_call("server"));
    event.put("dst_endpoint", target.0);
    if let Some(name) = entry.target() {
        let mut resource = Object::default();
        resource.put("name", name);
        resource.put("type", entry.target_kind());
        resource.put("labels", entry.of_call("label").filter(|label| !label.is_null()).map(|label| [label]));
        event.put("resources", [resource.0]);
    }
    if entry.kind == "outcome" {
        event.put("duration", entry.number("duration_micros").map(|micros| micros / 1000));
        event.put("http_response", entry.number("status").map(|code| json!({"code": code})));
    }
}

fn status(entry: &Entry<'_>) -> (u8, &'static str) {
    match (entry.kind, entry.verdict()) {
        ("call", "allow" | "tell") | ("outcome", "ok") => (1, "Success"),
        ("call", "hold") => (99, "Held"),
        ("call" | "outcome", _) => (2, "Failure"),
        _ => (0, "Unknown"),
    }
}

fn actor(entry: &Entry<'_>) -> Value {
    let mut actor = Object::default();
    actor
        .put("application", Object::of([("name", entry.of_call("client")), ("uid", entry.of_call("agent"))]));
    actor.put(
        "app_uid",
        entry.of_call("client").filter(|client| !client.is_null()).or_else(|| entry.of_call("agent")),
    );
    actor.put("user", Object::of([("name", entry.of_call("user"))]));
    if let Some(pid) = entry.within("local", "pid") {
        let mut process = Object::default();
        process.put("pid", pid);
        process.put("name", entry.within("local", "comm"));
        process.put("file", Object::of([("path", entry.within("local", "executable"))]));
        process.put("user", entry.within("local", "uid").map(|uid| json!({"uid": uid.to_string()})));
        actor.put("process", process.0);
    }
    actor.put(
        "session",
        Object::of([("uid", entry.of_call("session")), ("credential_uid", entry.of_call("credential"))]),
    );
    if actor.0.is_empty() {
        actor.put("app_uid", "unknown");
    }
    Value::Object(actor.0)
}

fn api(entry: &Entry<'_>) -> Value {
    let mut api = Object::default();
    let operation = entry.of_call("rpc_method").and_then(Value::as_str);
    api.put("operation", operation.or_else(|| entry.of_call("http_method")?.as_str()).unwrap_or("unknown"));
    api.put("service", Object::of([("name", entry.of_call("server"))]));
    api.put("request", entry.own("id").map(|id| json!({"uid": id})));
    if entry.kind == "outcome" {
        let mut response = Object::default();
        response.put("code", entry.field("error_code").map(exact));
        response.put("message", entry.verdict());
        api.put("response", response.0);
    }
    Value::Object(api.0)
}

fn endpoint(entry: &Entry<'_>, name: &str) -> Option<Value> {
    super::address(entry, name).map(|(ip, port)| json!({"ip": ip.to_string(), "port": port}))
}

/// Of a request that came by no connection.
fn source(entry: &Entry<'_>) -> &'static str {
    match entry.of_call("local").and_then(Value::as_str) {
        Some("guard") => "mcp-guard",
        _ => "unknown",
    }
}

/// What has no place in the schema, as the record has it, and the record's own digest.
fn unmapped(entry: &Entry<'_>) -> Map<String, Value> {
    let is_placed = |name: &str| {
        matches!(name, "seq" | "time" | "prev")
            || matches!(entry.kind, "call" | "outcome") && PLACED.split(' ').any(|placed| placed == name)
    };
    let mut left: Map<_, _> = entry
        .fields()
        .filter(|(name, value)| !is_placed(name) && !value.is_null())
        .map(|(name, value)| (name.clone(), exact(value)))
        .collect();
    left.insert("record_sha256".into(), hex::encode(sha256(&[entry.line.as_bytes()])).into());
    left
}

/// The value, with texts in place of numbers that not each reader has exactly.
fn exact(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.as_i64().is_none_or(|number| number.unsigned_abs() > EXACT_MAX) => {
            number.to_string().into()
        }
        Value::Array(values) => values.iter().map(exact).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), exact(value))).collect(),
        other => other.clone(),
    }
}
