use proptest::prelude::*;
use serde_json::{Map, json};

use super::escape::read_back;
use super::ocsf::Made;
use super::*;
use crate::config::golden;

const ORIGIN: &str = "host/mcp-guard/0123456789abcdef";

/// What comes out in a format, in a syslog message or not.
fn encoded(line: &str, call: Option<&str>, (format, in_syslog): (Format, bool)) -> String {
    let mut calls = Calls::from(Path::new(""), 0, [0; 32]);
    calls.remember(call.map(|call| serde_json::from_str(call).unwrap()).unwrap_or_default());
    let mut encoder = Encoder {
        format,
        in_syslog,
        origin: ORIGIN.into(),
        authority: "host+01020304+AA".into(),
        host: "host".into(),
        made: None,
        calls,
    };
    match encoder.encode(line).unwrap().unwrap() {
        Encoded::Line(line) => line,
        Encoded::Log(log) => ascii(&otlp::request(&[log], ORIGIN, "host")),
    }
}

/// Each format's line of a record, and of an outcome that of its call.
fn all(line: &str, call: Option<&str>) -> Vec<(&'static str, String)> {
    let formats = [
        ("ocsf", (Format::Ocsf, false)),
        ("cef", (Format::Cef, false)),
        ("csv", (Format::Csv, false)),
        ("otlp", (Format::Otlp, false)),
        ("syslog", (Format::Json, true)),
        ("cef in syslog", (Format::Cef, true)),
    ];
    formats.map(|(name, format)| (name, encoded(line, call, format))).to_vec()
}

#[test]
fn each_format_says_of_each_record_what_it_always_said() {
    let version = concat!("\"", env!("CARGO_PKG_VERSION"), "\"");
    let golden = include_str!("testdata/formats.txt");
    let calls: Vec<_> = golden.lines().filter(|line| line.contains(r#""decision":"allow""#)).collect();
    let cases = golden::compare("src/audit/export/testdata/formats.txt", |line| {
        // What the guard cannot write is no case.
        assert_eq!(crate::audit::spelling::is_own(line.as_bytes()), Ok(()), "{line}");
        let record: Value = serde_json::from_str(line).unwrap();
        crate::audit::schema::tests::follows(std::slice::from_ref(&record));
        let begins = format!(r#"{{"seq":{},"#, record["call_seq"]);
        let call = calls.iter().find(|call| call.starts_with(&begins)).copied();
        let said = all(line, call).into_iter().map(|(name, said)| {
            // A release changes no format.
            let said = said.replace(version, "\"VERSION\"");
            let said = said.replace(concat!("|", env!("CARGO_PKG_VERSION"), "|"), "|VERSION|");
            // So the fingerprint, which is over the version too, is not compared.
            let at = said.rfind(r#""value":""#).filter(|_| name == "ocsf");
            let said = at.map_or(said.clone(), |at| format!("{}...", &said[..at]));
            format!("{name}: {said}")
        });
        said.collect::<Vec<_>>().join("\n") + "\n"
    });
    assert_eq!(cases, 16);
}

/// A call whose texts an attacker chose.
fn call(texts: &[String; 4], seq: u64) -> String {
    let [target, client, session, method] = texts;
    let record = json!({
        "seq": seq, "prev": "00", "time": "2026-11-21T05:00:00.123456Z", "kind": "call", "id": "01", "server": "s", "agent": "a", "client": client,
        "session": session, "rpc_method": method, "target": {"kind": "tool", "name": target}, "decision": "deny", "reason": "default_deny",
        "peer": "127.0.0.1:1", "original_dst": "127.0.0.1:2", "local": {"pid": 1, "comm": target}, "http_method": "POST",
    });
    ascii(&record)
}

/// What a reader of CEF takes a line for: header fields, and keys with values.
fn read_cef(line: &str) -> (Vec<String>, Vec<(String, String)>) {
    let mut header = vec![String::new()];
    let mut rest = line.chars();
    while header.len() < 8 {
        match rest.next().unwrap() {
            '\\' => header.last_mut().unwrap().push(rest.next().unwrap()),
            '|' => header.push(String::new()),
            other => header.last_mut().unwrap().push(other),
        }
    }
    header.pop();
    // A key is a word before a `=` that nothing escapes.
    let (mut fields, mut text): (Vec<(String, String)>, String) = (Vec::new(), String::new());
    let mut rest = rest.chain([' ']).peekable();
    while let Some(next) = rest.next() {
        match next {
            '\\' => text.push(rest.next().unwrap()),
            '=' => {
                let (before, key) = text.rsplit_once(' ').unwrap_or(("", &text));
                if let Some((_, value)) = fields.last_mut() {
                    *value = before.to_owned();
                }
                fields.push((key.to_owned(), String::new()));
                text = String::new();
            }
            other => text.push(other),
        }
    }
    fields.last_mut().unwrap().1 = text.strip_suffix(' ').unwrap().to_owned();
    (header, fields)
}

/// What a reader of RFC 4180 takes a line for.
fn read_csv(line: &str) -> Vec<String> {
    let (mut cells, mut is_quoted) = (vec![String::new()], false);
    let mut rest = line.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '"' if is_quoted && rest.peek() == Some(&'"') => {
                cells.last_mut().unwrap().push(rest.next().unwrap());
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => cells.push(String::new()),
            other => cells.last_mut().unwrap().push(other),
        }
    }
    assert!(!is_quoted);
    cells
}

fn texts() -> impl Strategy<Value = [String; 4]> {
    // Mostly what the formats have a meaning for.
    let text = prop_oneof![
        r#"[=|\\,"'+@ \r\n\t-]{0,8}[a-z=|\\, ]{0,8}[=|\\,"\r\n]{0,4}"#,
        "<13>1 - - - - - - [<=|]{0,4}",
        "CEF:0\\|a\\|b\\|c\\|d\\|e\\|9\\|act=allow",
        r"[\x00-\u{10ffff}]{0,20}",
    ];
    [text.clone().boxed(), text.clone().boxed(), text.clone().boxed(), text.boxed()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn no_name_forges_an_event_or_a_field(texts in texts(), plain_seq in 0_u64..1 << 40) {
        let line = call(&texts, plain_seq);
        let [target, client, session, method] = &texts;
        for (name, said) in all(&line, None) {
            prop_assert!(said.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{}: {:?}", name, said);
            match name {
                "cef" => {
                    let (header, fields) = read_cef(&said);
                    prop_assert_eq!(&header[..3], ["CEF:0", "mcp-guard", "mcp-guard"]);
                    prop_assert_eq!((&*header[4], &*header[6]), ("call:deny", "5"));
                    let keys: Vec<_> = fields.iter().map(|(key, _)| &**key).collect();
                    let expected = [
                        "rt", "deviceExternalId", "externalId", "cat", "act", "reason", "requestClientApplication", "destinationServiceName", "src", "spt",
                        "dst", "dpt", "sproc", "spid", "requestMethod", "cs3Label", "cs3", "cs4Label", "cs4", "cs5Label", "cs5",
                    ];
                    prop_assert_eq!(keys, expected);
                    let value = |key: &str| fields.iter().find(|(name, _)| name == key).map(|(_, value)| read_back(value));
                    prop_assert_eq!(&value("cs3").unwrap(), target);
                    prop_assert_eq!(&value("cs4").unwrap(), session);
                    prop_assert_eq!(value("act").unwrap(), "deny");
                }
                "csv" => {
                    let cells = read_csv(&said);
                    prop_assert_eq!(cells.len(), csv::header().split(',').count());
                    let column = |name: &str| {
                        let at = csv::header().split(',').position(|column| column == name).unwrap();
                        cells[at].clone()
                    };
                    for (name, text) in [("target", target), ("client", client), ("session", session)] {
                        let cell = column(name);
                        prop_assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']) || cell.parse::<i64>().is_ok(), "{:?}", cell);
                        prop_assert!(!cell.contains(';'), "{:?}", cell);
                        let is_marked = text.starts_with(['=', '+', '-', '@', '\'']);
                        let cell = cell.strip_prefix('\'').filter(|_| is_marked).unwrap_or(&cell);
                        prop_assert_eq!(&read_back(cell), text);
                    }
                }
                "syslog" | "cef in syslog" => {
                    prop_assert!(said.starts_with("<108>1 2026-11-21T05:00:00.123Z host mcp-guard - call [meta sequenceId=\""), "{}", said);
                    prop_assert_eq!(said.matches('<').count(), 1, "where it begins, and nowhere else: {}", &said);
                    let (_, message) = said.split_once("\"] ").unwrap();
                    if name == "syslog" {
                        let (back, record): (Value, Value) = (serde_json::from_str(message).unwrap(), serde_json::from_str(&line).unwrap());
                        prop_assert_eq!(back, record);
                    } else {
                        let (_, fields) = read_cef(message);
                        let value = |key: &str| fields.iter().find(|(name, _)| name == key).map(|(_, value)| read_back(value));
                        prop_assert_eq!((&value("cs3").unwrap(), &value("cs4").unwrap()), (target, session));
                    }
                }
                "ocsf" => {
                    let event: Value = serde_json::from_str(&said).unwrap();
                    prop_assert_eq!(&event["resources"][0]["name"], target);
                    prop_assert_eq!(&event["activity_name"], method);
                    prop_assert_eq!((&event["action_id"], &event["type_uid"]), (&json!(2), &json!(if method == "resources/read" { 600_302 } else { 600_399 })));
                }
                _ => {
                    let request: Value = serde_json::from_str(&said).unwrap();
                    let record = &request["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
                    prop_assert_eq!(&record["body"]["stringValue"], &line);
                }
            }
        }
    }
}

/// As RFC 8785 says it, written once more: names sorted, nothing between.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.keys().collect();
            names.sort_by_key(|name| name.encode_utf16().collect::<Vec<_>>());
            let members = names.iter().map(|name| format!("{}:{}", json!(name), canonical(&fields[*name])));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Number(number) => {
            assert!(number.as_i64().unwrap().unsigned_abs() <= 1 << 53, "{number} is not exact everywhere");
            number.to_string()
        }
        other => other.to_string(),
    }
}

#[test]
fn each_event_has_its_own_fingerprint_and_that_of_the_one_before() {
    let golden = include_str!("testdata/formats.txt");
    let mut before: Option<Made> = None;
    let mut last: Option<Value> = None;
    for line in golden.lines().filter(|line| line.starts_with(r#"{"seq""#)) {
        let fields: Map<String, Value> = serde_json::from_str(line).unwrap();
        let entry = Entry::new(line, &fields, None).unwrap();
        let (event, made) = ocsf::event(&entry, ORIGIN, "key", before.as_ref());
        let mut bare = event.clone();
        let attestation = bare["attestation_list"][0].as_object_mut().unwrap();
        let fingerprint = attestation.remove("fingerprint").unwrap();
        let digest = crate::audit::merkle::sha256(&[canonical(&bare).as_bytes()]);
        assert_eq!(fingerprint["value"], hex::encode(digest), "{line}");
        let named = &event["attestation_list"][0]["prev_event"];
        match &last {
            Some(last) => {
                assert_eq!(named["fingerprint"], last["attestation_list"][0]["fingerprint"]);
                assert_eq!(
                    (&named["uid"], &named["type_uid"]),
                    (&last["metadata"]["uid"], &last["type_uid"])
                );
            }
            None => assert!(named.is_null()),
        }
        // What the schema requires of each event, and of API Activity.
        for name in
            ["activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"]
        {
            assert!(!event[name].is_null(), "{name}: {event}");
        }
        if event["class_uid"] == 6003 {
            for name in ["actor", "api", "src_endpoint"] {
                assert!(event[name].as_object().is_some_and(|object| !object.is_empty()), "{name}: {event}");
            }
            assert!(event["api"]["operation"].is_string());
        }
        (before, last) = (Some(made), Some(event));
    }
}
