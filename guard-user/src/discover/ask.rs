//! Asks a listener politely whether it speaks MCP: one `initialize`, and if that opened a session, its end.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Ports that one survey may ask.
pub const PORTS_ASKED_MAX: usize = 64;
/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_millis(500);
/// How long the whole answer may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The endpoint that servers have unless they say otherwise.
const ENDPOINT: &str = "/mcp";
/// Ports of other protocols, whose servers count a stranger's words as an attack or an error.
const NOT_ASKED: [u16; 20] =
    [21, 22, 23, 25, 53, 110, 111, 139, 143, 389, 445, 465, 587, 631, 993, 995, 3306, 5432, 6379, 27017];

/// Whether a port may be asked at all.
pub(super) fn may_ask(port: u16) -> bool {
    !NOT_ASKED.contains(&port)
}

/// Where to ask a listener: at its own address or, if it has all, over loopback.
pub(super) fn target(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

/// Whether what listens at `address` in the calling thread's network namespace answers as an MCP server does.
pub(super) fn speaks_mcp(address: SocketAddr) -> bool {
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "mcp-guard-discover", "version": env!("CARGO_PKG_VERSION")},
    }});
    let Ok(answer) = exchange(address, &request("POST", address, None, &initialize.to_string())) else {
        return false;
    };
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    if let Some(session) = header(head, "mcp-session-id") {
        // A courtesy; the server forgets the session without it, later.
        let _ended = exchange(address, &request("DELETE", address, Some(session), ""));
    }
    head.starts_with("HTTP/1.1 ") && is_mcp(body)
}

fn request(method: &str, address: SocketAddr, session: Option<&str>, body: &str) -> String {
    let session = session.map(|id| format!("Mcp-Session-Id: {id}\r\n")).unwrap_or_default();
    format!(
        "{method} {ENDPOINT} HTTP/1.1\r\nHost: localhost:{}\r\nUser-Agent: mcp-guard/{} (servers discover --probe)\r\n\
         Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{session}\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        address.port(),
        env!("CARGO_PKG_VERSION"),
        body.len()
    )
}

/// Sends and reads until the other side ends, time is over, or a whole JSON-RPC answer is there.
fn exchange(address: SocketAddr, request: &str) -> io::Result<Vec<u8>> {
    let end = Instant::now() + ANSWER_PATIENCE;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_PATIENCE)?;
    stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while answer.len() < ANSWER_BYTES_MAX {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
        // A stream of events may stay open.
        if std::str::from_utf8(&answer)
            .is_ok_and(|text| text.split_once("\r\n\r\n").is_some_and(|(_, body)| is_mcp(body)))
        {
            break;
        }
    }
    Ok(answer)
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let value =
        head.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name));
    // It goes back into a request: nothing that could end a line may be in it.
    value.map(|(_, value)| value.trim()).filter(|value| value.bytes().all(|b| (0x21..0x7f).contains(&b)))
}

/// Whether some line of a body is the result of an `initialize`, or a JSON-RPC error: as JSON, as an event, or in chunks.
fn is_mcp(body: &str) -> bool {
    let lines = body.lines().map(|line| line.strip_prefix("data:").unwrap_or(line));
    std::iter::once(body).chain(lines).any(|text| {
        let message: Value = serde_json::from_str(text.trim()).unwrap_or_default();
        let is_result = message.pointer("/result/protocolVersion").is_some_and(Value::is_string);
        let is_error = message.pointer("/error/code").is_some_and(Value::is_i64)
            && message.pointer("/error/message").is_some_and(Value::is_string);
        message.get("jsonrpc").is_some_and(|version| version == "2.0") && (is_result || is_error)
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Answers each connection with these bytes; gives what came.
    fn server(answer: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, heard) = mpsc::channel();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).unwrap_or_default();
                let _ = tell.send(String::from_utf8_lossy(&bytes[..read]).into_owned());
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        (address, heard)
    }

    #[test]
    fn an_mcp_server_is_told_by_its_answer_and_its_session_is_ended() {
        let (address, heard) = server(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nMcp-Session-Id: abc\r\n\r\n\
             event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"protocolVersion\":\"2025-06-18\"}}\n\n",
        );
        assert!(speaks_mcp(address));
        let asked = heard.recv().unwrap();
        assert!(
            asked.starts_with("POST /mcp HTTP/1.1\r\n") && asked.contains("User-Agent: mcp-guard/"),
            "{asked}"
        );
        let ended = heard.recv().unwrap();
        assert!(ended.starts_with("DELETE /mcp ") && ended.contains("Mcp-Session-Id: abc\r\n"), "{ended}");
    }

    #[test]
    fn what_speaks_something_else_is_no_mcp_server() {
        for answer in [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n<html>mcp</html>",
            "HTTP/1.1 200 OK\r\n\r\n{\"result\":{\"protocolVersion\":\"1\"}}",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "",
        ] {
            assert!(!speaks_mcp(server(answer).0), "{answer:?}");
        }
        let (address, _) = server(
            "HTTP/1.1 400 Bad Request\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"no session\"}}",
        );
        assert!(speaks_mcp(address), "it has another idea of sessions, but it is one");
    }

    #[test]
    fn a_silent_listener_and_ports_of_others_cost_little() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let start = Instant::now();
        assert!(!speaks_mcp(silent.local_addr().unwrap()));
        assert!(start.elapsed() < ANSWER_PATIENCE + CONNECT_PATIENCE + Duration::from_secs(1));
        assert!(!may_ask(22) && may_ask(8080));
        assert_eq!(target("0.0.0.0:1".parse().unwrap()), "127.0.0.1:1".parse().unwrap());
        assert_eq!(target("[::]:1".parse().unwrap()), "[::1]:1".parse().unwrap());
        assert_eq!(target("10.0.0.1:1".parse().unwrap()), "10.0.0.1:1".parse().unwrap());
    }
}
