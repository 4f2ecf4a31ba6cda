//! A look at a server's message, in one pass and without building it: what it answers, and whether it holds a list.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Id;

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
    Result {
        /// `isError: true`: the tool ran and failed.
        is_error: bool,
        /// It has `tools`, `prompts`, `resources` or `resourceTemplates` and goes through [`super::list::filter`].
        has_list: bool,
    },
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
        (None, Some(Outcome { is_error, has_list }), None) => ReplyKind::Result { is_error, has_list },
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

#[derive(Default)]
struct Outcome {
    is_error: bool,
    has_list: bool,
}

/// `result: null` is a result all the same.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Outcome>, D::Error> {
    Outcome::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Key {
    IsError,
    Prompts,
    ResourceTemplates,
    Resources,
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
        let mut is_error: Option<bool> = None;
        let mut has_list = false;
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::IsError if is_error.is_some() => {
                    return Err(serde::de::Error::duplicate_field("isError"));
                }
                Key::IsError => is_error = Some(map.next_value()?),
                // That no list stands twice is for the list filter, which every such reply passes.
                Key::Prompts | Key::ResourceTemplates | Key::Resources | Key::Tools => {
                    has_list = true;
                    map.next_value::<IgnoredAny>()?;
                }
                Key::Other => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(Outcome { is_error: is_error.unwrap_or(false), has_list })
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
        let plain = |is_error, has_list| ReplyKind::Result { is_error, has_list };
        assert_eq!(
            kind(r#"{"id":1,"result":{"content":[{"isError":true,"tools":1}]}}"#),
            plain(false, false)
        );
        assert_eq!(kind(r#"{"id":1,"result":{"isErro\u0072":true}}"#), plain(true, false));
        for list in ["tools", "prompts", "resources", "resourceTemplates", "t\\u006fols"] {
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
        assert_eq!(kind(&deep), ReplyKind::Result { is_error: false, has_list: false });
        assert_eq!(list::filter(deep.as_bytes(), |_| false).unwrap(), list::Filtered::Unchanged);
    }

    #[test]
    fn what_clients_could_read_differently_is_refused() {
        for text in [
            r#"{"id":1,"result":{},"result":{}}"#,
            r#"{"id":1,"id":1,"result":{}}"#,
            r#"{"id":1,"result":{},"r\u0065sult":{}}"#,
            r#"{"id":1,"result":{"isError":false,"isError":true}}"#,
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
