//! Which distributed trace a request belongs to, by the client's word (W3C Trace Context, level 1).

use http::HeaderMap;
use serde::Serialize;

use super::{Json, Message};

/// The name in `params._meta` (SEP-414) and of the HTTP header.
const TRACEPARENT: &str = "traceparent";
/// Digits of the ids, in lower-case hex.
const TRACE_DIGITS: usize = 32;
const SPAN_DIGITS: usize = 16;

/// The ids of a trace and of the span that asks. A client may say any; they are hex digits, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// 32 hex digits.
    pub id: String,
    /// 16 hex digits.
    pub span: String,
}

impl Trace {
    /// As the message says; else as its head does. Nothing that cannot be read as a trace is one.
    pub fn of(message: Option<&Message>, headers: &HeaderMap) -> Option<Self> {
        let said = message.and_then(|message| message.meta(TRACEPARENT)).and_then(Json::as_str);
        let mut headers = headers.get_all(TRACEPARENT).iter();
        let header =
            headers.next().filter(|_| headers.next().is_none()).and_then(|value| value.to_str().ok());
        said.and_then(Self::parse).or_else(|| header.and_then(Self::parse))
    }

    /// From `version-trace-span-flags`.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, id, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // A later version may have more behind these.
        let is_known = version != "00" || parts.next().is_none();
        let is_right = hex(version, 2) && version != "ff" && hex(flags, 2) && is_known;
        (is_right && is_id(id, TRACE_DIGITS) && is_id(span, SPAN_DIGITS))
            .then(|| Self { id: id.to_owned(), span: span.to_owned() })
    }
}

fn hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// All zeros are none.
fn is_id(text: &str, digits: usize) -> bool {
    hex(text, digits) && text.bytes().any(|byte| byte != b'0')
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn message(meta: &str) -> Message {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{meta}}}}}"#);
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        headers.insert("accept", "application/json, text/event-stream".parse().unwrap());
        super::super::decode(&headers, Bytes::from(body), 64).unwrap()
    }

    fn head(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (TRACEPARENT.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_message_says_it_and_else_the_head() {
        let (said, told) = (format!("00-{TRACE}-{SPAN}-01"), format!("00-{}-{SPAN}-00", "1".repeat(32)));
        let message = message(&format!(r#"{{"traceparent":"{said}"}}"#));
        let trace = Trace { id: TRACE.into(), span: SPAN.into() };
        assert_eq!(Trace::of(Some(&message), &head(&[&told])), Some(trace));
        let other = self::message(r#"{"traceparent":"00-no"}"#);
        assert_eq!(Trace::of(Some(&other), &head(&[&told])).unwrap().id, "1".repeat(32));
        assert_eq!(Trace::of(None, &head(&[&said, &told])), None, "which of the two?");
        assert_eq!(Trace::of(None, &HeaderMap::new()), None);
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert!(Trace::parse(&good).is_some());
        assert!(Trace::parse(&format!("01-{TRACE}-{SPAN}-01-more")).is_some());
        for wrong in [
            format!("{good}-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            good.to_uppercase(),
            good.replace("-01", ""),
            good.replace("0af7", "0af"),
            format!(" {good}"),
            String::new(),
        ] {
            assert_eq!(Trace::parse(&wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_says_a_trace_is_hex_digits(text in "[0-9a-fA-F]{0,2}-[0-9a-g]{30,33}-\\PC{15,17}-[0-9]{2}|\\PC*") {
            if let Some(Trace { id, span }) = Trace::parse(&text) {
                prop_assert!(hex(&id, 32) && hex(&span, 16));
            }
        }
    }
}
