//! The hostile requests of `corpus/`, as its README describes them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// One case: what goes over the wire, and what is to come of it.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    /// The headers of a POST whose body `bytes` is; none if `bytes` is all that the connection gets.
    pub headers: Option<Vec<(String, String)>>,
    pub bytes: Vec<u8>,
    /// HTTP status
    pub status: u16,
    /// As audit records name it; `accepted` if the form is no reason to refuse.
    pub reason: String,
}

/// All cases of `json` or `http`.
pub fn cases(transport: &str) -> anyhow::Result<Vec<Case>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(transport).join("cases.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    cases.iter().map(|case| parse(case).with_context(|| format!("case {}", case["name"]))).collect()
}

/// A JSON text as a public suite of such texts has them: not all parsers take and refuse the same ones.
#[derive(Debug, Clone)]
pub struct Text {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Whether the guard takes a message with it in its arguments.
    pub taken: bool,
}

impl Text {
    /// A call with the text as its arguments.
    pub fn call(&self) -> Vec<u8> {
        let head = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":"#;
        [&head[..], &self.bytes, b"}}"].concat()
    }
}

/// All texts.
pub fn texts() -> anyhow::Result<Vec<Text>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/json/texts.json");
    let texts: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let text = |text: &Value| {
        let parts = text["bytes"].as_array().context("no bytes")?;
        let bytes: Vec<_> = parts.iter().map(part).collect::<Result<_, _>>()?;
        let name = text["name"].as_str().context("no name")?.to_owned();
        Ok(Text { name, bytes: bytes.concat(), taken: text["taken"].as_bool().context("no verdict")? })
    };
    texts.iter().map(text).collect()
}

fn parse(case: &Value) -> anyhow::Result<Case> {
    let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
    let parts = case["bytes"].as_array().context("no bytes")?;
    let bytes: Vec<_> = parts.iter().map(part).collect::<Result<_, _>>()?;
    let headers = match (case["transport"].as_str(), case["headers"].as_array()) {
        (Some("http"), _) => None,
        (_, None) => Some(vec![("content-type".to_owned(), "application/json".to_owned())]),
        (_, Some(pairs)) => Some(
            pairs.iter().map(|pair| Ok((text(&pair[0])?, text(&pair[1])?))).collect::<anyhow::Result<_>>()?,
        ),
    };
    Ok(Case {
        name: text(&case["name"])?,
        headers,
        bytes: bytes.concat(),
        status: case["expect"]["status"].as_u64().context("no status")?.try_into()?,
        reason: text(&case["expect"]["reason"])?,
    })
}

/// A text, hex digits, or a repetition.
fn part(part: &Value) -> anyhow::Result<Vec<u8>> {
    if let Some(text) = part.as_str() {
        return Ok(text.into());
    }
    if let Some(hex) = part["hex"].as_str() {
        let pairs = (0..hex.len()).step_by(2).map(|at| hex.get(at..at + 2).context("half a byte"));
        return pairs.map(|pair| Ok(u8::from_str_radix(pair?, 16)?)).collect();
    }
    let times = usize::try_from(part["times"].as_u64().context("no times")?)?;
    Ok(part["repeat"].as_str().context("no repeat")?.repeat(times).into())
}

impl Case {
    pub fn is_hostile(&self) -> bool {
        self.reason != "accepted"
    }

    /// What a client writes to the connection, with `extra` headers (lines with their ends) behind the host.
    pub fn on_the_wire(&self, extra: &str) -> Vec<u8> {
        let Some(headers) = &self.headers else { return behind_host(&self.bytes, extra) };
        let mut request = format!("POST /mcp HTTP/1.1\r\nhost: localhost\r\n{extra}");
        for (name, value) in headers {
            // Writing to a string cannot fail.
            let _ = write!(request, "{name}: {value}\r\n");
        }
        let _ = write!(request, "content-length: {}\r\n\r\n", self.bytes.len());
        [request.as_bytes(), &self.bytes].concat()
    }
}

/// Puts `extra` behind each `Host` line. Requests without a whole one stay as they are.
fn behind_host(bytes: &[u8], extra: &str) -> Vec<u8> {
    const HOST: &[u8] = b"\nhost: localhost\r\n";
    let mut out = Vec::with_capacity(bytes.len() + extra.len());
    for (at, byte) in bytes.iter().enumerate() {
        out.push(*byte);
        let line = (at + 1).checked_sub(HOST.len()).and_then(|start| bytes.get(start..=at));
        if line.is_some_and(|line| line.eq_ignore_ascii_case(HOST)) {
            out.extend_from_slice(extra.as_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_have_hostile_and_healthy_cases() {
        for transport in ["json", "http"] {
            let cases = cases(transport).unwrap();
            let hostile = cases.iter().filter(|case| case.is_hostile()).count();
            assert!(hostile > 30 && hostile < cases.len(), "{transport}: {hostile} of {}", cases.len());
            assert!(cases.iter().all(|case| case.is_hostile() == (case.status != 200)));
        }
    }

    #[test]
    fn headers_are_added_to_every_request_of_a_connection() {
        let twice = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nHOST: localhost\r\n\r\n";
        let added = String::from_utf8(behind_host(twice, "A: b\r\n")).unwrap();
        assert_eq!(added.matches("localhost\r\nA: b\r\n\r\n").count(), 2);
        assert_eq!(behind_host(b"GET /\r\n", "A: b\r\n"), b"GET /\r\n");
    }
}
