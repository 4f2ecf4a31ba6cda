//! OpenTelemetry logs, in the JSON encoding of OTLP 1: each line is an `ExportLogsServiceRequest`.

use serde_json::{Value, json};

use super::entry::Entry;

/// One record as a log record.
pub(super) fn record(entry: &Entry<'_>) -> Value {
    let (number, text) = entry.severity().otlp();
    let nanos = i128::from(entry.millis) * 1_000_000;
    let mut attributes = vec![
        attribute("event.name", &json!(format!("mcp_guard.{}", entry.kind))),
        attribute("mcp_guard.seq", &json!(entry.seq)),
        attribute("mcp_guard.verdict", &json!(entry.verdict())),
    ];
    let named = [
        ("mcp.method.name", entry.of_call("rpc_method")),
        ("mcp.protocol.version", entry.of_call("era")),
        ("mcp.session.id", entry.field("session")),
        ("jsonrpc.request.id", entry.of_call("rpc_id")),
        ("enduser.id", entry.field("user")),
        ("gen_ai.agent.name", entry.field("agent")),
        ("mcp_guard.server", entry.field("server")),
        ("mcp_guard.intent", entry.field("intent")),
        ("mcp_guard.rule", entry.field("rule")),
        ("mcp_guard.reason", entry.field("reason")),
        ("mcp_guard.id", entry.field("id")),
        ("mcp_guard.risk", entry.within("risk", "score")),
    ];
    attributes.extend(
        named
            .into_iter()
            .filter_map(|(key, value)| Some(attribute(key, value.filter(|value| !value.is_null())?))),
    );
    if let Some(target) = entry.target() {
        let key = match entry.target_kind() {
            Some("tool") => "gen_ai.tool.name",
            Some("resource") => "mcp.resource.uri",
            Some("prompt") => "gen_ai.prompt.name",
            _ => "mcp_guard.target",
        };
        attributes.push(attribute(key, &json!(target)));
    }
    if let Some((ip, port)) = super::address(entry, "peer") {
        attributes.push(attribute("client.address", &json!(ip.to_string())));
        attributes.push(attribute("client.port", &json!(port)));
    }
    let mut log = json!({
        "timeUnixNano": nanos.to_string(),
        "observedTimeUnixNano": nanos.to_string(),
        "severityNumber": number,
        "severityText": text,
        "body": {"stringValue": entry.line},
        "attributes": attributes,
    });
    for (key, name) in [("traceId", "id"), ("spanId", "span")] {
        if let Some(id) = entry.within("trace", name) {
            log[key] = id.clone();
        }
    }
    log
}

/// A request with these log records.
pub(super) fn request(records: &[Value], origin: &str, host: &str) -> Value {
    json!({"resourceLogs": [{
        "resource": {"attributes": [
            attribute("service.name", &json!("mcp-guard")),
            attribute("service.version", &json!(env!("CARGO_PKG_VERSION"))),
            attribute("host.name", &json!(host)),
            attribute("mcp_guard.trail", &json!(origin)),
        ]},
        "scopeLogs": [{"scope": {"name": "mcp-guard.audit"}, "logRecords": records}],
    }]})
}

/// 64-bit integers are texts in protobuf's JSON.
fn attribute(key: &str, value: &Value) -> Value {
    let value = match value {
        Value::String(text) => json!({"stringValue": text}),
        Value::Bool(bool) => json!({"boolValue": bool}),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            json!({"intValue": number.to_string()})
        }
        other => json!({"stringValue": other.to_string()}),
    };
    json!({"key": key, "value": value})
}
