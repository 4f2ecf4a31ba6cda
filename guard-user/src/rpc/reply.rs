//! A look at a server's message, in one pass and without building it: what it answers, and whether it holds a list.

use std::borrow::Cow;
use std::fmt;
use std::str::Utf8Error;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Id;
use super::fold::is_lookalike;
use super::member::{self, Text, member};
use super::message::METHOD_BYTES_MAX;

/// Members of a message that clients look for, and of a result those that the guard looks at.
const FRAME_KEYS: [&str; 6] = ["error", "id", "jsonrpc", "method", "params", "result"];
const NOTICE_KEYS: [&str; 3] = ["inputRequests", "taskId", "uri"];
const RESULT_KEYS: [&str; 15] = [
    "cacheScope",
    "capabilities",
    "inputRequests",
    "isError",
    "prompts",
    "protocolVersion",
    "requestState",
    "resourceTemplates",
    "resources",
    "resultType",
    "task",
    "taskId",
    "tasks",
    "tools",
    "ttlMs",
];

/// Requests that a server may make of a client in one answer.
pub const ASKS_MAX: usize = 64;

/// What the guard needs to know of a server's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// None on a notification, and on an error about a request whose id the server could not read.
    pub id: Option<Id>,
    pub kind: ReplyKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyKind {
    Error {
        code: i64,
    },
    Notification(Notice),
    /// From the server to the client (legacy revisions only).
    Request {
        method: String,
    },
    Result(Outcome),
}

/// A notification, and what it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notice {
    pub method: String,
    /// `params.uri`: a resource.
    pub uri: Option<String>,
    /// `params.taskId`.
    pub task: Option<String>,
    /// Methods in `params.inputRequests`.
    pub asks: Vec<String>,
}

/// What a result says of itself.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// `isError: true`: the tool ran and failed.
    pub is_error: bool,
    /// It has `tools`, `prompts`, `resources`, `resourceTemplates` or `tasks` and goes through [`super::list::filter`].
    pub has_list: bool,
    /// It says for whom and how long it holds, or what the server can do, and goes there too.
    pub has_terms: bool,
    /// The id of the task that the call has become: `taskId`, or that of `task` (2025-11-25).
    pub task: Option<String>,
    /// `resultType: "input_required"`: the client is to send the request again, with more.
    pub needs_input: bool,
    /// `requestState`: what it has to send back then.
    pub state: Option<String>,
    /// `protocolVersion`: what the server agrees on in its answer to `initialize`.
    pub version: Option<String>,
    /// Methods in `inputRequests`: what the server asks of the client.
    pub asks: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    #[error("the server's message is not a request, a notification or a response")]
    Kind,
    #[error("the name of the server's method is longer than {METHOD_BYTES_MAX} bytes")]
    LongMethod,
    #[error("the server's message is not one JSON object")]
    NotAnObject,
    #[error("the server's message is not valid UTF-8")]
    NotUtf8(#[from] Utf8Error),
    /// A known member stands twice or in two spellings, or has the wrong type, or the text is no JSON.
    #[error("the server's message cannot be read for sure: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// Reads a JSON body, or the data of one server-sent event.
pub fn look(raw: &[u8]) -> Result<Reply, ReplyError> {
    // A derived reader would take an array for the members in their order.
    if !raw.trim_ascii_start().starts_with(b"{") {
        return Err(ReplyError::NotAnObject);
    }
    let frame: Frame<'_> = serde_json::from_str(std::str::from_utf8(raw)?)?;
    if frame.method.as_ref().is_some_and(|method| method.len() > METHOD_BYTES_MAX) {
        return Err(ReplyError::LongMethod);
    }
    let kind = match (frame.method, frame.result, frame.error, &frame.id) {
        (Some(method), None, None, Named::By(_)) => ReplyKind::Request { method: method.into_owned() },
        // `id: null` beside a method: a notification to some, nothing to others.
        (Some(method), None, None, Named::Not) => {
            let params = frame.params.map_or("", RawValue::get);
            let is_object = params.starts_with('{');
            let params = if is_object { serde_json::from_str(params)? } else { Params::default() };
            let Params { uri, task, asks } = params;
            ReplyKind::Notification(Notice { method: method.into_owned(), uri, task, asks })
        }
        (None, Some(outcome), None, Named::By(_)) => ReplyKind::Result(outcome),
        (None, None, Some(error), _) => ReplyKind::Error { code: error.code },
        _ => return Err(ReplyError::Kind),
    };
    let id = match frame.id {
        Named::By(id) => Some(id),
        Named::Not | Named::Null => None,
    };
    Ok(Reply { id, kind })
}

#[derive(Default)]
struct Frame<'a> {
    id: Named,
    method: Option<Cow<'a, str>>,
    params: Option<&'a RawValue>,
    result: Option<Outcome>,
    error: Option<ErrorMember>,
}

/// The `id` member.
#[derive(Default)]
enum Named {
    #[default]
    Not,
    Null,
    By(Id),
}

impl<'de> Deserialize<'de> for Frame<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FrameVisitor)
    }
}

struct FrameVisitor;

impl<'de> Visitor<'de> for FrameVisitor {
    type Value = Frame<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Frame<'de>, A::Error> {
        let mut frame = Frame::default();
        let mut seen = Seen::default();
        while let Some(Text(key)) = map.next_key()? {
            match seen.note(&key, FRAME_KEYS)? {
                Some("id") => frame.id = map.next_value::<Option<Id>>()?.map_or(Named::Null, Named::By),
                Some("method") => {
                    frame.method = map.next_value::<Option<Text<'_>>>()?.map(|Text(method)| method);
                }
                Some("params") => frame.params = Some(map.next_value()?),
                // `result: null` is a result all the same.
                Some("result") => frame.result = Some(map.next_value()?),
                Some("error") => frame.error = map.next_value()?,
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(frame)
    }
}

/// What the guard looks at in the parameters of a notification.
#[derive(Default)]
struct Params {
    uri: Option<String>,
    task: Option<String>,
    asks: Vec<String>,
}

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Params;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("parameters")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Params, A::Error> {
                let mut params = Params::default();
                let mut seen = Seen::default();
                while let Some(Text(key)) = map.next_key()? {
                    match seen.note(&key, NOTICE_KEYS)? {
                        Some("uri") => params.uri = map.next_value::<Words>()?.0,
                        Some("taskId") => params.task = map.next_value::<Words>()?.0,
                        Some(_input_requests) => params.asks = map.next_value::<Asks>()?.0,
                        None => _ = map.next_value::<IgnoredAny>()?,
                    }
                }
                Ok(params)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// Which of the known keys an object has had.
#[derive(Default)]
struct Seen(Vec<&'static str>);

impl Seen {
    /// The known key that this is, if any. An error if it stands twice, however it is escaped, or if `key` is what
    /// another parser may take for a known one.
    fn note<E: serde::de::Error, const N: usize>(
        &mut self,
        key: &str,
        known: [&'static str; N],
    ) -> Result<Option<&'static str>, E> {
        let Some(known) = known.into_iter().find(|known| *known == key) else {
            return if is_lookalike(key, &known) {
                Err(E::custom("a key in another spelling"))
            } else {
                Ok(None)
            };
        };
        if self.0.contains(&known) {
            return Err(E::duplicate_field(known));
        }
        self.0.push(known);
        Ok(Some(known))
    }
}

struct ErrorMember {
    code: i64,
}

impl<'de> Deserialize<'de> for ErrorMember {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = <&RawValue>::deserialize(deserializer)?.get();
        let code = member(value, "code")
            .map_err(D::Error::custom)?
            .ok_or_else(|| D::Error::missing_field("code"))?;
        serde_json::from_str(code.get()).map(|code| Self { code }).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OutcomeVisitor)
    }
}

struct OutcomeVisitor;

impl<'de> Visitor<'de> for OutcomeVisitor {
    type Value = Outcome;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a result")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outcome, A::Error> {
        let mut outcome = Outcome::default();
        let mut seen = Seen::default();
        let mut made = None;
        while let Some(Text(key)) = map.next_key()? {
            match seen.note(&key, RESULT_KEYS)? {
                Some("isError") => outcome.is_error = map.next_value()?,
                Some("resultType") => {
                    outcome.needs_input = map.next_value::<Words>()?.0.as_deref() == Some("input_required");
                }
                Some("protocolVersion") => outcome.version = map.next_value::<Words>()?.0,
                Some("requestState") => outcome.state = map.next_value::<Words>()?.0,
                Some("inputRequests") => outcome.asks = map.next_value::<Asks>()?.0,
                Some("taskId") => outcome.task = map.next_value::<Words>()?.0,
                Some("task") => made = map.next_value::<TaskMember>()?.0,
                // That no list stands twice is for the list filter, which every such reply passes.
                Some("cacheScope" | "capabilities" | "ttlMs") => {
                    outcome.has_terms = true;
                    map.next_value::<IgnoredAny>()?;
                }
                Some(_list) => {
                    outcome.has_list = true;
                    map.next_value::<IgnoredAny>()?;
                }
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        outcome.task = outcome.task.or(made);
        Ok(outcome)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Outcome, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Outcome::default())
    }

    fn visit_unit<E>(self) -> Result<Outcome, E> {
        Ok(Outcome::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Outcome, E> {
        Ok(Outcome::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Outcome, E> {
        Ok(Outcome::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Outcome, E> {
        Ok(Outcome::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Outcome, E> {
        Ok(Outcome::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Outcome, E> {
        Ok(Outcome::default())
    }
}

/// A text; what is none is none of the guard's business.
struct Words(Option<String>);

/// The `taskId` of an object.
struct TaskMember(Option<String>);

/// The `method`s of an object's members.
struct Asks(Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = <&RawValue>::deserialize(deserializer)?.get();
        let text = value.starts_with('"').then(|| serde_json::from_str(value)).transpose();
        text.map(Self).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for TaskMember {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = <&RawValue>::deserialize(deserializer)?.get();
        let id =
            if value.starts_with('{') { member(value, "taskId").map_err(D::Error::custom)? } else { None };
        let id = id.filter(|id| id.get().starts_with('"')).map(|id| serde_json::from_str(id.get()));
        id.transpose().map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Asks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Asks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("requests by their keys")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Asks, A::Error> {
                let mut asks = Vec::new();
                while let Some((_key, ask)) = map.next_entry::<IgnoredAny, &RawValue>()? {
                    if asks.len() == ASKS_MAX {
                        return Err(serde::de::Error::custom("more requests than a server may make at once"));
                    }
                    asks.push(member::text(ask.get(), "method").map_err(A::Error::custom)?.into_owned());
                }
                Ok(Asks(asks))
            }

            fn visit_unit<E>(self) -> Result<Asks, E> {
                Ok(Asks(Vec::new()))
            }
        }

        deserializer.deserialize_any(Members)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rpc::{Target, list};

    fn kind(text: &str) -> ReplyKind {
        look(text.as_bytes()).unwrap().kind
    }

    #[test]
    fn each_kind_is_told_from_the_others() {
        let plain =
            |is_error, has_list| ReplyKind::Result(Outcome { is_error, has_list, ..Outcome::default() });
        assert_eq!(
            kind(r#"{"id":1,"result":{"content":[{"isError":true,"tools":1}]}}"#),
            plain(false, false)
        );
        assert_eq!(kind(r#"{"id":1,"result":{"isErro\u0072":true}}"#), plain(true, false));
        for list in ["tools", "prompts", "resources", "resourceTemplates", "tasks", "t\\u006fols"] {
            assert_eq!(kind(&format!(r#"{{"result":{{"{list}":[]}},"id":1}}"#)), plain(false, true));
        }
        for terms in ["cacheScope", "capabilities"] {
            let kind = kind(&format!(r#"{{"result":{{"{terms}":0}},"id":1}}"#));
            assert_eq!(kind, ReplyKind::Result(Outcome { has_terms: true, ..Outcome::default() }));
        }
        for result in ["null", "1", "-1", "1.5", "\"a\"", "true", "[{\"tools\":[]}]"] {
            assert_eq!(kind(&format!(r#"{{"result":{result},"id":1}}"#)), plain(false, false));
        }
        assert_eq!(
            kind(r#"{"id":null,"error":{"code":-32700,"message":"x","data":{}}}"#),
            ReplyKind::Error { code: -32700 }
        );
        assert_eq!(kind(r#"{"id":1,"method":"ping"}"#), ReplyKind::Request { method: "ping".to_owned() });
        assert_eq!(
            kind(r#"{"method":"a\/b","params":{}}"#),
            ReplyKind::Notification(Notice { method: "a/b".to_owned(), ..Notice::default() })
        );
    }

    #[test]
    fn what_stands_within_is_not_read_by_two_spellings() {
        for text in [
            r#"{"id":1,"error":{"code":1,"Code":-32042}}"#,
            r#"{"id":1,"result":{"task":{"taskId":"mine","TaskId":"theirs"}}}"#,
            r#"{"id":1,"result":{"inputRequests":{"q":{"method":"roots/list","Method":"sampling/createMessage"}}}}"#,
        ] {
            assert!(matches!(look(text.as_bytes()), Err(ReplyError::Unreadable(_))), "{text}");
        }
    }

    #[test]
    fn a_method_has_a_longest_name() {
        let asks = |length: usize| format!(r#"{{"id":1,"method":"{}"}}"#, "m".repeat(length));
        assert!(look(asks(METHOD_BYTES_MAX).as_bytes()).is_ok());
        assert!(matches!(look(asks(METHOD_BYTES_MAX + 1).as_bytes()), Err(ReplyError::LongMethod)));
    }

    #[test]
    fn tasks_and_requests_for_input_are_seen() {
        let result = |result: &str| match kind(&format!(r#"{{"id":1,"result":{result}}}"#)) {
            ReplyKind::Result(outcome) => outcome,
            other => panic!("{other:?}"),
        };
        let task = |text| result(text).task;
        assert_eq!(task(r#"{"resultType":"task","taskId":"a","status":"working"}"#).as_deref(), Some("a"));
        assert_eq!(task(r#"{"task":{"ttl":1,"taskId":"a"}}"#).as_deref(), Some("a"));
        assert_eq!(task(r#"{"task":"a","taskId":7}"#), None);
        let asked = result(
            r#"{"resultType":"input_required","requestState":"s","inputRequests":
                {"a":{"method":"elicitation/create","params":{}},"b":{"method":"roots/list"}}}"#,
        );
        assert_eq!((asked.needs_input, asked.state.as_deref()), (true, Some("s")));
        assert_eq!(asked.asks, ["elicitation/create", "roots/list"]);
        assert!(!result(r#"{"resultType":"complete","inputRequests":null}"#).needs_input);
    }

    #[test]
    fn a_notification_says_what_it_is_about() {
        let notice = |params: &str| match kind(&format!(r#"{{"method":"n","params":{params}}}"#)) {
            ReplyKind::Notification(notice) => notice,
            other => panic!("{other:?}"),
        };
        assert_eq!(notice(r#"{"uri":"u:1","x":{}}"#).uri.as_deref(), Some("u:1"));
        assert_eq!(notice(r#"{"taskId":"t","status":"working"}"#).task.as_deref(), Some("t"));
        assert_eq!(notice(r#"{"inputRequests":{"q":{"method":"roots/list"}}}"#).asks, ["roots/list"]);
        assert_eq!(notice("[1]"), Notice { method: "n".to_owned(), ..Notice::default() });
        for params in [r#"{"uri":"a","uri":"b"}"#, r#"{"URI":"a"}"#, r#"{"taskid":"a"}"#] {
            assert!(look(format!(r#"{{"method":"n","params":{params}}}"#).as_bytes()).is_err(), "{params}");
        }
    }

    #[test]
    fn a_server_asks_for_so_many_things_at_once() {
        let asks = |count: usize| {
            let asks: Vec<String> =
                (0..count).map(|n| format!(r#""{n}":{{"method":"roots/list"}}"#)).collect();
            look(format!(r#"{{"id":1,"result":{{"inputRequests":{{{}}}}}}}"#, asks.join(",")).as_bytes())
        };
        assert!(asks(ASKS_MAX).is_ok());
        assert!(asks(ASKS_MAX + 1).is_err());
    }

    #[test]
    fn ids_keep_their_type() {
        let id = |text: &str| look(text.as_bytes()).unwrap().id;
        assert_eq!(id(r#"{"id":1,"result":{}}"#), Some(Id::Number(1)));
        assert_eq!(id(r#"{"id":"1","result":{}}"#), Some(Id::String("1".to_owned())));
        assert_eq!(id(r#"{"id":null,"error":{"code":1}}"#), None);
        assert_eq!(id(r#"{"error":{"code":1}}"#), None);
    }

    #[test]
    fn nesting_costs_no_stack() {
        let deep = format!(r#"{{"id":1,"result":{{"x":{}{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(kind(&deep), ReplyKind::Result(Outcome::default()));
        assert_eq!(
            list::filter(deep.as_bytes(), &|_: Target<'_>| false, 1).unwrap(),
            list::Filtered::Unchanged
        );
    }

    #[test]
    fn what_clients_could_read_differently_is_refused() {
        for text in [
            r#"{"id":1,"result":{},"result":{}}"#,
            r#"{"id":1,"id":1,"result":{}}"#,
            r#"{"id":1,"result":{},"r\u0065sult":{}}"#,
            r#"{"id":1,"result":{"isError":false,"isError":true}}"#,
            r#"{"id":1,"result":{"taskId":"a","taskId":"b"}}"#,
            r#"{"id":1,"result":{"task":{"taskId":"a","taskId":"b"}}}"#,
            r#"{"id":1,"result":{"resultType":"complete","resultType":"input_required"}}"#,
            r#"{"id":1,"result":{"requestState":"a","requestState":"b"}}"#,
            r#"{"id":1,"result":{"inputRequests":{"q":{"params":{}}}}}"#,
            r#"{"id":1,"result":{"Tools":[]}}"#,
            r#"{"id":1,"result":{"tools":[],"TOOLS":[]}}"#,
            r#"{"id":1,"result":{"re\u017fources":[]}}"#,
            r#"{"id":1,"result":{},"error":{"code":1}}"#,
            r#"{"id":1,"method":"a","result":{}}"#,
            r#"{"id":1.0,"result":{}}"#,
            r#"{"id":1}"#,
            r#"[{"id":1,"result":{}}]"#,
            r#"[1,"a",{}]"#,
            r#"{"id":1,"result":{}} {}"#,
            "",
            "\u{feff}{}",
            r#"{"id":1,"result":{},"Result":{}}"#,
            r#"{"id":1,"ID":2,"result":{}}"#,
            r#"{"id":1,"result":{"tools":[]},"jsonrpc":"2.0","jsonrpc":"1.0"}"#,
            r#"{"method":"a","params":{},"params":{}}"#,
            r#"{"id":1,"result":{"tools":[],"Tools":[{"name":"b"}]}}"#,
            r#"{"id":1,"result":{"isError\u0000":true}}"#,
            r#"{"id":1,"result":{"tools":[],"tools":[]}}"#,
            r#"{"id":null,"method":"a"}"#,
            r#"{"id":null,"result":{}}"#,
            r#"{"result":{}}"#,
        ] {
            assert!(look(text.as_bytes()).is_err(), "{text}");
        }
        for text in
            [&b"{\"id\":1,\"result\":{\"content\":\"\xff\"}}"[..], b"{\"id\":1,\"result\":{\"\xc0\xaf\":1}}"]
        {
            assert!(look(text).is_err(), "{}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            _ = look(&[b"{\"id\":1,\"result\":", bytes.as_slice(), b"}"].concat());
            _ = look(&bytes);
        }
    }
}
