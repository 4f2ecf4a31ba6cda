//! Request ids and progress tokens: a string, or an integer that every language holds exactly.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::Json;

/// Longest string id, in bytes. It is echoed in replies and kept in audit records.
pub const ID_BYTES_MAX: usize = 256;

/// Largest absolute value of an integer id: 2^53−1, the last one that a JavaScript number holds exactly.
pub const ID_INTEGER_MAX: i64 = (1 << 53) - 1;

/// Compared by type and value: `1` is not `"1"`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(untagged)]
pub enum Id {
    Number(i64),
    String(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("it has a control character")]
    Control,
    #[error("an integer must be written without fraction or exponent and lie within ±(2^53−1)")]
    Number,
    #[error("it has more than {ID_BYTES_MAX} bytes")]
    TooLong,
    #[error("it must be a string or an integer")]
    Type,
}

impl Id {
    /// `1.0`, `1e3` and `-0` are refused: some parsers take them for an integer, others for no id at all.
    pub fn read(json: &Json) -> Result<Self, IdError> {
        match json {
            Json::Number(number) => Self::number(number.as_i64().ok_or(IdError::Number)?),
            Json::String(text) => Self::text(text),
            Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => Err(IdError::Type),
        }
    }

    fn number(value: i64) -> Result<Self, IdError> {
        if (-ID_INTEGER_MAX..=ID_INTEGER_MAX).contains(&value) {
            Ok(Self::Number(value))
        } else {
            Err(IdError::Number)
        }
    }

    fn text(text: &str) -> Result<Self, IdError> {
        if text.len() > ID_BYTES_MAX {
            Err(IdError::TooLong)
        } else if text.chars().any(char::is_control) {
            Err(IdError::Control)
        } else {
            Ok(Self::String(text.to_owned()))
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an integer id")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Id, E> {
                Id::number(value).map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Id, E> {
                i64::try_from(value).map_or(Err(IdError::Number), Id::number).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
                Id::text(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::json;

    #[test]
    fn both_readers_take_and_refuse_the_same_ids() {
        let long = format!("\"{}\"", "i".repeat(ID_BYTES_MAX + 1));
        let table: &[(&str, Result<Id, IdError>)] = &[
            ("0", Ok(Id::Number(0))),
            ("-1", Ok(Id::Number(-1))),
            ("9007199254740991", Ok(Id::Number(ID_INTEGER_MAX))),
            ("\"\"", Ok(Id::String(String::new()))),
            ("\"1\"", Ok(Id::String("1".to_owned()))),
            ("9007199254740992", Err(IdError::Number)),
            ("-9007199254740992", Err(IdError::Number)),
            ("18446744073709551615", Err(IdError::Number)),
            ("1.0", Err(IdError::Number)),
            ("1e3", Err(IdError::Number)),
            ("-0", Err(IdError::Number)),
            ("1.5", Err(IdError::Number)),
            ("\"a\\u0000\"", Err(IdError::Control)),
            ("null", Err(IdError::Type)),
            ("true", Err(IdError::Type)),
            ("[1]", Err(IdError::Type)),
            ("{}", Err(IdError::Type)),
            (&long, Err(IdError::TooLong)),
        ];
        for (text, expected) in table {
            assert_eq!(&Id::read(&json::parse(text.as_bytes(), 8).unwrap()), expected, "{text}");
            assert_eq!(serde_json::from_str::<Id>(text).ok(), expected.clone().ok(), "{text}");
        }
    }

    #[test]
    fn a_string_and_a_number_are_different_ids() {
        assert_ne!(Id::Number(1), Id::String("1".to_owned()));
        assert_eq!(serde_json::to_string(&Id::Number(1)).unwrap(), "1");
        assert_eq!(serde_json::to_string(&Id::String("1".to_owned())).unwrap(), "\"1\"");
    }
}
