//! What the guard accepts, all of Node, Python and `serde_json` read alike.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use guard_tests::corpus;
use guard_tests::differ::{Case, Jury, Reader, Report, project, request};
use http::{HeaderMap, HeaderValue};
use mcp_guard::config::Limits;
use mcp_guard::rpc;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

const CASES: u64 = 100_000;
/// Another one makes other cases; a failing case's name says its own.
const SEED: u64 = 20_260_728;

/// A reader as typed servers are: a member that stands twice is an error to it.
#[derive(Deserialize)]
struct Typed {
    #[serde(default, deserialize_with = "present")]
    jsonrpc: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    id: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    method: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    params: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    result: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    error: Option<Value>,
}

/// `null` is there all the same.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Typed {
    fn line(bytes: &[u8]) -> String {
        let Ok(typed) = serde_json::from_slice::<Self>(bytes) else { return "!".to_owned() };
        let members = [
            ("jsonrpc", typed.jsonrpc),
            ("id", typed.id),
            ("method", typed.method),
            ("params", typed.params),
            ("result", typed.result),
            ("error", typed.error),
        ];
        let whole = members.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        project::value(&Value::Object(whole))
    }
}

fn untyped(bytes: &[u8]) -> String {
    serde_json::from_slice(bytes).map_or("!".to_owned(), |message| project::value(&message))
}

/// The guard's decision on a POST, and its own and `serde_json`'s two readings of what it takes.
fn guard(case: &Case) -> Option<(Case, Vec<String>)> {
    let Case::Json(bytes) = case else { return None };
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let body = Bytes::copy_from_slice(bytes);
    let message = rpc::decode(&headers, body, Limits::default().json_depth_max).ok()?;
    assert_eq!(message.raw(), bytes, "the server gets what was judged");
    let untyped = untyped(bytes);
    let is_error = untyped.contains(" error=1 ");
    Some((case.clone(), vec![project::message(&message, is_error), untyped, Typed::line(bytes)]))
}

/// No decision at all: the readers, with `serde_json` among them, are on their own.
fn open_door(case: &Case) -> Option<(Case, Vec<String>)> {
    let Case::Json(bytes) = case else { return None };
    Some((case.clone(), vec![untyped(bytes)]))
}

/// Takes what `serde_json` takes, and of two members with the same key the first, as some scanners do.
fn first_wins(case: &Case) -> Option<(Case, Vec<String>)> {
    let Case::Json(bytes) = case else { return None };
    serde_json::from_slice::<Value>(bytes).ok()?;
    let message = first(std::str::from_utf8(bytes).ok()?.trim_ascii()).ok()?;
    Some((case.clone(), vec![project::value(&message)]))
}

fn first(text: &str) -> serde_json::Result<Value> {
    match text.as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(text)?;
            let mut object = Map::new();
            for (key, value) in members {
                let value = first(value.get())?;
                object.entry(key).or_insert(value);
            }
            Ok(Value::Object(object))
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            items.into_iter().map(|item| first(item.get())).collect()
        }
        _ => serde_json::from_str(text),
    }
}

/// Of an object, all of them.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(All)
    }
}

fn jury() -> Jury {
    Jury::new([Reader::node(), Reader::python("json"), Reader::python("pydantic")]).unwrap()
}

fn generated(seed: u64, count: u64) -> impl Iterator<Item = (String, Case)> {
    (seed..seed + count).map(|seed| (format!("seed {seed}"), request(seed)))
}

fn known() -> impl Iterator<Item = (String, Case)> {
    let cases = corpus::cases("json").unwrap().into_iter();
    let texts = corpus::texts().unwrap().into_iter();
    cases
        .map(|case| (case.name.clone(), Case::Json(case.bytes)))
        .chain(texts.map(|text| (text.name.clone(), Case::Json(text.call()))))
}

#[test]
fn what_the_guard_takes_from_a_client_is_read_alike_by_all() {
    let report: Report = jury().hear(known().chain(generated(SEED, CASES)), &guard).unwrap();
    println!("{report}");
    assert!(report.differences.is_empty(), "{report}");
    // Refusing all would prove nothing, nor would taking all.
    let quarter = report.cases / 4;
    assert!(report.accepted > quarter && report.cases - report.accepted > quarter, "{report}");
}

#[test]
fn every_text_of_the_suite_is_taken_or_refused_as_it_says() {
    let wrong: Vec<_> = corpus::texts()
        .unwrap()
        .into_iter()
        .filter(|text| guard(&Case::Json(text.call())).is_some() != text.taken)
        .map(|text| text.name)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Cases of the corpus on which the readers themselves part.
const PARTING: [&str; 10] = [
    "UTF-8 BOM",
    "UTF-16LE with BOM",
    "invalid UTF-8 in the name",
    "overlong slash",
    "NaN",
    "number beyond f64",
    "lone surrogate in an argument",
    "nesting of 100000",
    "id 1.0",
    "id of 30 digits",
];

#[test]
fn without_the_guards_decision_differences_are_found() {
    let report = jury().hear(known().chain(generated(SEED, 2000)), &open_door).unwrap();
    println!("{} of {} cases are read in two ways", report.differences.len(), report.cases);
    let found: BTreeSet<_> = report.differences.iter().map(|difference| difference.name.as_str()).collect();
    for name in PARTING {
        assert!(found.contains(name), "{name} is not among {found:?}");
    }
    assert!(found.iter().filter(|name| name.starts_with("seed")).count() > 100, "{found:?}");

    let report = jury().hear(known().chain(generated(SEED, 2000)), &first_wins).unwrap();
    let found: BTreeSet<_> = report.differences.iter().map(|difference| difference.name.as_str()).collect();
    for name in
        ["tool name twice", "tool name twice, second escaped", "method twice", "argument key twice, deep"]
    {
        assert!(found.contains(name), "{name} is not among {found:?}");
    }
    assert!(found.iter().any(|name| name.starts_with("seed")), "{found:?}");
}
