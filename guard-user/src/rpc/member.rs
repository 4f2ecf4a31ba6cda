//! One member of an object that is read no further.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::fold::is_lookalike;

/// A text that is borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// The member `key` of the object with this JSON text. An error if it stands twice, or beside one that another parser may take
/// for it.
pub(super) fn member<'a>(
    object: &'a str,
    key: &'static str,
) -> Result<Option<&'a RawValue>, serde_json::Error> {
    Member(key).deserialize(&mut serde_json::Deserializer::from_str(object))
}

/// The same; it must be there, and a text.
pub(super) fn text<'a>(object: &'a str, key: &'static str) -> Result<Cow<'a, str>, serde_json::Error> {
    let value = member(object, key)?.ok_or_else(|| serde_json::Error::missing_field(key))?;
    let Text(text) = serde_json::from_str(value.get())?;
    Ok(text)
}

struct Member(&'static str);

impl<'de> DeserializeSeed<'de> for Member {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Member {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Text(key)) = map.next_key()? {
            if key == self.0 {
                if found.replace(map.next_value()?).is_some() {
                    return Err(A::Error::duplicate_field(self.0));
                }
                continue;
            }
            if is_lookalike(&key, &[self.0]) {
                return Err(A::Error::custom("a key in another spelling"));
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_found_however_it_is_escaped_and_only_if_it_is_alone() {
        assert_eq!(text(r#"{"x":{"name":"b"},"n\u0061me":"a"}"#, "name").unwrap(), "a");
        assert!(member(r#"{"x":1}"#, "name").unwrap().is_none());
        for wrong in [
            r#"{"name":"a","name":"b"}"#,
            r#"{"name":"a","n\u0061me":"b"}"#,
            r#"{"name":"a","Name":"b"}"#,
            r#"{"NAME":"b"}"#,
            r#"{"name":1}"#,
            r#"{"x":"a"}"#,
            r#"["a"]"#,
        ] {
            assert!(text(wrong, "name").is_err(), "{wrong}");
        }
    }
}
