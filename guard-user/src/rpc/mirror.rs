//! Arguments of a tool that a stateless client repeats in headers, as the tool's `inputSchema` asks (`x-mcp-header`).
//!
//! What is on the way may act on such a header, and the server on the body, so both must say the same. The values are
//! compared as the revision of 2026-07-28 says: texts byte for byte after the coded form is undone, numbers by their value.

use http::HeaderMap;
use serde_json::Number;

use super::agree::value;
use super::{Era, Json, Message};

/// How the names of all such headers begin.
pub const MIRROR_PREFIX: &str = "mcp-param-";

/// Largest number that is compared by its value; beyond it, parsers round differently.
const NUMBER_MAX: f64 = 9_007_199_254_740_991.0;

/// One argument that is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The header's name, in small letters.
    pub header: String,
    /// Names of members, from the arguments on.
    pub path: Vec<String>,
    /// Whether a server must refuse a call that has the argument and not the header.
    pub is_required: bool,
}

/// Whether the request has any such header.
pub fn has_mirrors(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(MIRROR_PREFIX))
}

impl Message {
    /// Gives the header that says something else than the arguments, or that is not there. A session's client need not send
    /// any, but what it sends must be true.
    pub fn mirrors_agree<'m>(&self, headers: &HeaderMap, mirrors: &'m [Mirror]) -> Result<(), &'m str> {
        for mirror in mirrors {
            let start = self.arguments();
            let argument = mirror.path.iter().try_fold(start, |at, key| at.map(|json| json.get(key)));
            let argument = argument.flatten();
            let agrees = match (headers.contains_key(&mirror.header), argument) {
                (true, argument) => {
                    let said = value(headers, &mirror.header);
                    said.zip(argument).is_some_and(|(said, argument)| says(&said, argument))
                }
                (false, Some(Json::Bool(_) | Json::Number(_) | Json::String(_))) => {
                    !mirror.is_required || self.era() == Era::Legacy
                }
                (false, _) => true,
            };
            if !agrees {
                return Err(&mirror.header);
            }
        }
        Ok(())
    }
}

fn says(said: &str, argument: &Json) -> bool {
    match argument {
        Json::String(text) => said == text,
        Json::Bool(is) => said == if *is { "true" } else { "false" },
        Json::Number(number) => {
            said == number.to_string()
                || serde_json::from_str::<Number>(said).is_ok_and(|said| is_same(&said, number))
        }
        Json::Null | Json::Array(_) | Json::Object(_) => false,
    }
}

/// `42` and `42.0`.
#[expect(clippy::float_cmp, reason = "both were read from text; what differs at all is another number")]
fn is_same(a: &Number, b: &Number) -> bool {
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
        return a == b;
    }
    let (a, b) = (a.as_f64(), b.as_f64());
    a.zip(b).is_some_and(|(a, b)| a == b && a.abs() <= NUMBER_MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use serde_json::{Value, json};

    use super::*;
    use crate::rpc::decode;

    fn agree(headers: &[(&'static str, &str)], arguments: &Value, is_modern: bool) -> bool {
        let mut map = HeaderMap::new();
        map.insert("content-type", HeaderValue::from_static("application/json"));
        if is_modern {
            map.insert("mcp-protocol-version", HeaderValue::from_static("2026-07-28"));
        }
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "t", "arguments": arguments}});
        let message = decode(&map, Bytes::from(call.to_string()), 64).unwrap();
        let mirror = |header: &str, path: &[&str], is_required| Mirror {
            header: format!("{MIRROR_PREFIX}{header}"),
            path: path.iter().map(|&key| key.to_owned()).collect(),
            is_required,
        };
        let mirrors = [mirror("region", &["region"], true), mirror("deep", &["a", "b"], false)];
        let told = message.mirrors_agree(&map, &mirrors);
        told.is_ok()
    }

    #[test]
    fn a_header_says_what_its_argument_says() {
        let region = |said: &'static str, argument: Value| {
            agree(&[("mcp-param-region", said)], &json!({"region": argument}), true)
        };
        for (said, argument) in [
            ("eu", json!("eu")),
            (" \teu ", json!("eu")),
            ("=?base64?w6Q=?=", json!("ä")),
            ("=?base64?PT9iYXNlNjQ/eD89?=", json!("=?base64?x?=")),
            ("", json!("")),
            ("42", json!(42)),
            ("42.0", json!(42)),
            ("42", json!(42.0)),
            ("-1", json!(-1)),
            ("1e2", json!(100)),
            ("9007199254740993", json!(9_007_199_254_740_993_u64)),
            ("true", json!(true)),
        ] {
            assert!(region(said, argument.clone()), "{said:?} {argument}");
        }
        for (said, argument) in [
            ("us", json!("eu")),
            ("EU", json!("eu")),
            ("ä", json!("ä")),
            ("=?base64?w6Q?=", json!("ä")),
            ("=?base64?x?=", json!("=?base64?x?=")),
            ("43", json!(42)),
            ("042", json!(42)),
            ("0x2a", json!(42)),
            ("NaN", json!(42)),
            ("9007199254740992.0", json!(9_007_199_254_740_993_u64)),
            ("True", json!(true)),
            ("1", json!(true)),
            ("null", json!(null)),
            ("", json!(null)),
            ("[1]", json!([1])),
            ("{}", json!({})),
        ] {
            assert!(!region(said, argument.clone()), "{said:?} {argument}");
        }
    }

    #[test]
    fn a_header_stands_exactly_where_its_argument_does() {
        let eu = ("mcp-param-region", "eu");
        assert!(agree(&[eu], &json!({"region": "eu"}), true));
        assert!(!agree(&[], &json!({"region": "eu"}), true), "it must repeat the argument");
        assert!(agree(&[], &json!({"region": "eu"}), false), "a session's client need not");
        assert!(!agree(&[("mcp-param-region", "us")], &json!({"region": "eu"}), false));
        for nothing in [json!({}), json!({"region": null}), json!(null), json!({"Region": "eu"})] {
            assert!(agree(&[], &nothing, true), "{nothing}");
            assert!(!agree(&[eu], &nothing, true), "{nothing}");
        }
        assert!(agree(&[], &json!({"a": {"b": 1}}), true), "this one may be left out");
        assert!(agree(&[("mcp-param-deep", "1")], &json!({"a": {"b": 1}}), true));
        assert!(!agree(&[("mcp-param-deep", "2")], &json!({"a": {"b": 1}}), true));
        assert!(!agree(&[("mcp-param-deep", "1")], &json!({"a": 1, "b": 1}), true));
    }
}
