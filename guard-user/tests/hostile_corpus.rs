//! Every case of `tests/corpus` gets the verdict that it names.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use mcp_guard::config::Limits;
use mcp_guard::http::framing::Inspector;
use mcp_guard::rpc;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    transport: String,
    headers: Option<Vec<(String, String)>>,
    bytes: Vec<Part>,
    expect: Verdict,
    why: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Part {
    Text(String),
    Hex { hex: String },
    Repeat { repeat: String, times: usize },
}

#[derive(Deserialize, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Verdict {
    status: u16,
    reason: String,
}

impl Verdict {
    fn accepted() -> Self {
        Self { status: 200, reason: "accepted".to_owned() }
    }
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone().into_bytes(),
            Part::Hex { hex } => hex::decode(hex).expect("hex of the corpus"),
            Part::Repeat { repeat, times } => repeat.repeat(*times).into_bytes(),
        };
        self.bytes.iter().flat_map(part).collect()
    }

    fn headers(&self) -> HeaderMap {
        let default = [("content-type".to_owned(), "application/json".to_owned())];
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers.as_deref().unwrap_or(&default) {
            let name = HeaderName::try_from(name).expect("header name of the corpus");
            headers.append(name, HeaderValue::try_from(value).expect("header value of the corpus"));
        }
        headers
    }
}

fn cases(transport: &str, text: &str, hostile_min: usize) -> Vec<Case> {
    let cases: Vec<Case> = serde_json::from_str(text).expect("the corpus is JSON");
    assert_eq!(
        cases.iter().map(|case| &case.name).collect::<BTreeSet<_>>().len(),
        cases.len(),
        "names are unique"
    );
    assert!(cases.iter().all(|case| case.transport == transport && !case.why.is_empty()));
    let hostile = cases.iter().filter(|case| case.expect.status != 200).count();
    assert!(hostile >= hostile_min && hostile < cases.len(), "{hostile} hostile cases of {}", cases.len());
    cases
}

/// Runs all cases, then tells of all that went wrong.
fn check(cases: &[Case], judge: impl Fn(&Case) -> Verdict) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let verdict = judge(case);
            (verdict != case.expect)
                .then(|| format!("{}: {verdict:?}, expected {:?}", case.name, case.expect))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_decoder_gives_every_json_case_its_verdict() {
    let cases = cases("json", include_str!("../../tests/corpus/json/cases.json"), 60);
    check(&cases, |case| {
        match rpc::decode(&case.headers(), Bytes::from(case.bytes()), Limits::default().json_depth_max) {
            Ok(_) => Verdict::accepted(),
            Err(error) => {
                Verdict { status: error.fault.status().as_u16(), reason: error.fault.reason().to_owned() }
            }
        }
    });
}

#[test]
fn the_inspector_gives_every_http_case_its_verdict() {
    let cases = cases("http", include_str!("../../tests/corpus/http/cases.json"), 30);
    check(&cases, |case| match Inspector::new(Limits::default().header_bytes_max).inspect(&case.bytes()) {
        Ok(()) => Verdict::accepted(),
        Err(fault) => Verdict { status: fault.status().as_u16(), reason: fault.reason().to_owned() },
    });
}

/// Shows that the cases are worth refusing: a reader without our rules takes many of them.
#[test]
fn a_plain_json_reader_takes_much_of_what_is_refused() {
    let cases = cases("json", include_str!("../../tests/corpus/json/cases.json"), 60);
    let hostile = cases.iter().filter(|case| case.expect.status != 200);
    let taken =
        hostile.filter(|case| serde_json::from_slice::<serde_json::Value>(&case.bytes()).is_ok()).count();
    assert!(taken >= 50, "{taken}");
}
