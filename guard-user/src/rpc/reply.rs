//! A look at a server's message, in one pass and without building it: what it answers, and whether it holds a list.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Id;

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
    Notification {
        method: String,
    },
    /// From the server to the client (legacy revisions only).
    Request {
        method: String,
    },
    Result(Outcome),
}

/// What a result says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// `isError: true`: the tool ran and failed.
    pub is_error: bool,
    /// It has `tools`, `prompts`, `resources`, `resourceTemplates` or `tasks` and goes through [`super::list::filter`].
    pub has_list: bool,
    /// The id of the task that the call has become: `taskId`, or that of `task` (2025-11-25).
    pub task: Option<String>,
    /// `resultType: "input_required"`: the client is to send the request again, with more.
    pub needs_input: bool,
    /// `requestState`: what it has to send back then.
    pub state: Option<String>,
    /// Methods in `inputRequests`: what the server asks of the client.
    pub asks: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    #[error("the server's message is not a request, a notification or a response")]
    Kind,
    #[error("the server's message is not one JSON object")]
    NotAnObject,
    /// A known member stands twice, or has the wrong type, or the text is no JSON.
    #[error("the server's message cannot be read for sure: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// Reads a JSON body, or the data of one server-sent event.
pub fn look(raw: &[u8]) -> Result<Reply, ReplyError> {
    // A derived reader would take an array for the members in their order.
    if !raw.trim_ascii_start().starts_with(b"{") {
        return Err(ReplyError::NotAnObject);
    }
    let frame: Frame<'_> = serde_json::from_slice(raw)?;
    let kind = match (frame.method, frame.result, frame.error) {
        (Some(method), None, None) if frame.id.is_some() => {
            ReplyKind::Request { method: method.into_owned() }
        }
        (Some(method), None, None) => ReplyKind::Notification { method: method.into_owned() },
        (None, Some(outcome), None) => ReplyKind::Result(outcome),
        (None, None, Some(error)) => ReplyKind::Error { code: error.code },
        _ => return Err(ReplyError::Kind),
    };
    Ok(Reply { id: frame.id, kind })
}

/// Derived readers refuse a field that stands twice, however it is escaped.
#[derive(Deserialize)]
struct Frame<'a> {
    id: Option<Id>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "present")]
    result: Option<Outcome>,
    error: Option<ErrorMember>,
}

#[derive(Deserialize)]
struct ErrorMember {
    code: i64,
}

/// `result: null` is a result all the same.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Outcome>, D::Error> {
    Outcome::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Key {
    InputRequests,
    IsError,
    Prompts,
    RequestState,
    ResourceTemplates,
    Resources,
    ResultType,
    Task,
    TaskId,
    Tasks,
    Tools,
    #[serde(other)]
    Other,
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
        let (mut is_error, mut kind, mut state, mut asks) = (None, None, None, None);
        let (mut task, mut task_id) = (None, None);
        let mut has_list = false;
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::IsError => once(&mut is_error, map.next_value()?, "isError")?,
                Key::ResultType => once(&mut kind, map.next_value::<Text>()?, "resultType")?,
                Key::RequestState => once(&mut state, map.next_value::<Text>()?, "requestState")?,
                Key::InputRequests => once(&mut asks, map.next_value::<Asks>()?, "inputRequests")?,
                Key::Task => once(&mut task, map.next_value::<TaskMember>()?, "task")?,
                Key::TaskId => once(&mut task_id, map.next_value::<Text>()?, "taskId")?,
                // That no list stands twice is for the list filter, which every such reply passes.
                Key::Prompts | Key::ResourceTemplates | Key::Resources | Key::Tasks | Key::Tools => {
                    has_list = true;
                    map.next_value::<IgnoredAny>()?;
                }
                Key::Other => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Outcome {
            is_error: is_error.unwrap_or(false),
            has_list,
            task: task_id.and_then(|Text(id)| id).or_else(|| task.and_then(|TaskMember(id)| id)),
            needs_input: kind.is_some_and(|Text(kind)| kind.as_deref() == Some("input_required")),
            state: state.and_then(|Text(state)| state),
            asks: asks.map(|Asks(asks)| asks).unwrap_or_default(),
        })
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

/// A member that stands twice is read differently by different clients.
fn once<T, E: serde::de::Error>(slot: &mut Option<T>, value: T, name: &'static str) -> Result<(), E> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::duplicate_field(name)),
    }
}

/// A text; what is none is none of the guard's business.
struct Text(Option<String>);

/// The `taskId` of an object.
struct TaskMember(Option<String>);

/// The `method`s of an object's members.
struct Asks(Vec<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = <&RawValue>::deserialize(deserializer)?.get();
        let text = value.starts_with('"').then(|| serde_json::from_str(value)).transpose();
        text.map(Self).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for TaskMember {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Task {
            task_id: Option<Text>,
        }
        let value = <&RawValue>::deserialize(deserializer)?.get();
        let task: Option<Task> = value
            .starts_with('{')
            .then(|| serde_json::from_str(value))
            .transpose()
            .map_err(serde::de::Error::custom)?;
        Ok(Self(task.and_then(|task| task.task_id?.0)))
    }
}

impl<'de> Deserialize<'de> for Asks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Ask<'a> {
            #[serde(borrow)]
            method: Cow<'a, str>,
        }
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Asks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("requests by their keys")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Asks, A::Error> {
                let mut asks = Vec::new();
                while let Some((_key, ask)) = map.next_entry::<IgnoredAny, Ask<'_>>()? {
                    if asks.len() == ASKS_MAX {
                        return Err(serde::de::Error::custom("more requests than a server may make at once"));
                    }
                    asks.push(ask.method.into_owned());
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
    use crate::rpc::list;

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
            ReplyKind::Notification { method: "a/b".to_owned() }
        );
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
        assert_eq!(list::filter(deep.as_bytes(), |_| false).unwrap(), list::Filtered::Unchanged);
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
            r#"{"id":1,"result":{},"error":{"code":1}}"#,
            r#"{"id":1,"method":"a","result":{}}"#,
            r#"{"id":1.0,"result":{}}"#,
            r#"{"id":1}"#,
            r#"[{"id":1,"result":{}}]"#,
            r#"[1,"a",{}]"#,
            r#"{"id":1,"result":{}} {}"#,
            "",
            "\u{feff}{}",
        ] {
            assert!(look(text.as_bytes()).is_err(), "{text}");
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
