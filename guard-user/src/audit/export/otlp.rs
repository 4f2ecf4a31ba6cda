//! OpenTelemetry logs, in the JSON encoding of OTLP 1: each line is an `ExportLogsServiceRequest`.

use serde_json::{Value, json};

use super::entry::Entry;

/// Where the records of a request are.
const RECORDS: &str = "/resourceLogs/0/scopeLogs/0/logRecords";
/// The attribute that has a record's number.
const SEQ: &str = "mcp_guard.seq";

/// One record as a log record.
pub(super) fn record(entry: &Entry<'_>) -> Value {
    let (number, text) = entry.severity().otlp();
    let request_id = entry.of_call("rpc_id").and_then(Value::as_str).map(|id| json!(request_id(id)));
    let mut attributes =
        vec![attribute(SEQ, &json!(entry.seq)), attribute("mcp_guard.verdict", &json!(entry.verdict()))];
    let named = [
        ("mcp.method.name", entry.of_call("rpc_method")),
        ("mcp.session.id", entry.field("session")),
        ("jsonrpc.request.id", request_id.as_ref()),
        ("enduser.id", entry.field("user")),
        ("gen_ai.agent.name", entry.field("agent")),
        ("mcp_guard.server", entry.field("server")),
        ("mcp_guard.era", entry.of_call("era")),
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
        "timeUnixNano": entry.nanos.to_string(),
        "observedTimeUnixNano": entry.nanos.to_string(),
        "eventName": format!("mcp_guard.{}", entry.kind),
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

/// The id itself, of its JSON text.
fn request_id(json: &str) -> String {
    serde_json::from_str::<String>(json).unwrap_or_else(|_no_text| json.to_owned())
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

/// The records of a request as two requests, in order. An error if it has less than two: the number of its record, if that shows.
pub fn halved(request: &str) -> Result<(String, String), Option<u64>> {
    let mut first: Value = serde_json::from_str(request).map_err(|_no_request| None)?;
    let mut second = first.clone();
    let records = first.pointer_mut(RECORDS).and_then(Value::as_array_mut).ok_or(None)?;
    if records.len() < 2 {
        let attributes = records.first().and_then(|record| record["attributes"].as_array());
        let seq = attributes.into_iter().flatten().find(|it| it["key"] == SEQ);
        return Err(seq.and_then(|seq| seq["value"]["intValue"].as_str()?.parse().ok()));
    }
    let rest = records.split_off(records.len() / 2);
    *second.pointer_mut(RECORDS).ok_or(None)? = Value::Array(rest);
    Ok((super::ascii(&first), super::ascii(&second)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: usize) -> String {
        let log =
            |seq| json!({"body": {"stringValue": "\u{e9}\n"}, "attributes": [attribute(SEQ, &json!(seq))]});
        super::super::ascii(&request(&(0..count).map(log).collect::<Vec<_>>(), "o", "h"))
    }

    fn seqs(request: &str) -> Vec<u64> {
        let request: Value = serde_json::from_str(request).unwrap();
        let records = request.pointer(RECORDS).and_then(Value::as_array).unwrap();
        records
            .iter()
            .map(|it| it["attributes"][0]["value"]["intValue"].as_str().unwrap().parse().unwrap())
            .collect()
    }

    #[test]
    fn a_request_is_halved_in_order_down_to_one_record_that_says_its_number() {
        for count in 1..20 {
            let (mut left, mut seen) = (vec![of(count)], Vec::new());
            while let Some(request) = left.pop() {
                assert!(request.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{request}");
                match halved(&request) {
                    Ok((first, second)) => {
                        let (first_seqs, second_seqs) = (seqs(&first), seqs(&second));
                        assert_eq!([first_seqs.clone(), second_seqs.clone()].concat(), seqs(&request));
                        assert!(first_seqs.len().abs_diff(second_seqs.len()) <= 1);
                        left.extend([second, first]);
                    }
                    Err(seq) => seen.push(seq.unwrap()),
                }
            }
            assert_eq!(seen, (0..count as u64).collect::<Vec<_>>());
        }
        let (first, _) = halved(&of(2)).unwrap();
        assert_eq!(first, of(1), "what is around the records stays");
        for none in ["", "{}", r#"{"resourceLogs": 1}"#] {
            assert_eq!(halved(none), Err(None), "{none}");
        }
    }
}
