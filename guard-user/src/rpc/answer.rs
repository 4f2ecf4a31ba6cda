//! What a response answers, byte for byte.

use serde::Deserialize;
use serde_json::value::RawValue;

/// The bytes of a response's `result` or `error`, as they stand there.
pub fn answer(raw: &[u8]) -> Option<&[u8]> {
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow, default)]
        result: Option<&'a RawValue>,
        #[serde(borrow, default)]
        error: Option<&'a RawValue>,
    }
    // A struct is read from a list, too.
    let object = raw.trim_ascii_start().starts_with(b"{").then_some(raw)?;
    let Response { result, error } = serde_json::from_slice(object).ok()?;
    result.or(error).map(|answer| answer.get().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn an_answer_is_what_stands_there_byte_for_byte() {
        let of = |message: &'static str| {
            answer(message.as_bytes()).map(|bytes| std::str::from_utf8(bytes).unwrap())
        };
        assert_eq!(
            of(r#"{"jsonrpc":"2.0","id":1,"result": { "a" : 1.0, "b":"\u00e9" } }"#),
            Some(r#"{ "a" : 1.0, "b":"\u00e9" }"#)
        );
        assert_eq!(
            of(r#"{"id":7,"error":{"code":-1,"message":"no"},"jsonrpc":"2.0"}"#),
            Some(r#"{"code":-1,"message":"no"}"#)
        );
        assert_eq!(of(r#"{"params":{"result":1},"method":"x"}"#), None);
        assert_eq!(of(r#"{"result":null,"id":1}"#), None);
        assert_eq!(of("[1]"), None);
        assert_eq!(of(r#"{"result":1,"result":2}"#), None);
    }
}
