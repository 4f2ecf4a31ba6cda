//! Every hostile request of the corpus reaches a server, byte for byte, when only a relay is in between. What the guard
//! refuses is therefore the guard's doing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use guard_tests::relay::Relay;
use serde_json::Value;

/// A case's bytes: its parts are text, hex or a repetition.
fn bytes(case: &Value) -> Vec<u8> {
    let part = |part: &Value| -> Vec<u8> {
        if let Some(text) = part.as_str() {
            return text.into();
        }
        if let Some(hex) = part["hex"].as_str() {
            let digits: Vec<_> = hex.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
            return digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect();
        }
        let times = usize::try_from(part["times"].as_u64().unwrap()).unwrap();
        part["repeat"].as_str().unwrap().repeat(times).into()
    };
    case["bytes"].as_array().unwrap().iter().flat_map(part).collect()
}

/// What a client would write to the connection: a body gets the head of a POST.
fn on_the_wire(case: &Value) -> Vec<u8> {
    let body = bytes(case);
    if case["transport"] == "http" {
        return body;
    }
    let mut request = b"POST /mcp HTTP/1.1\r\nhost: localhost\r\n".to_vec();
    let plain = serde_json::json!([["content-type", "application/json"]]);
    for header in case["headers"].as_array().unwrap_or(plain.as_array().unwrap()) {
        let (name, value) = (header[0].as_str().unwrap(), header[1].as_str().unwrap());
        request.extend(format!("{name}: {value}\r\n").bytes());
    }
    request.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
    [request, body].concat()
}

/// Sends the request through `relay` and returns what the server behind it got.
fn through(relay: SocketAddr, server: &TcpListener, request: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut stream = TcpStream::connect(relay).unwrap();
            stream.write_all(request).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            // Until the server hangs up.
            stream.read_to_end(&mut Vec::new()).unwrap();
        });
        let (mut stream, _) = server.accept().unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        drop(stream);
        client.join().unwrap();
        got
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_hostile_request_passes_a_plain_relay() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = Relay::plain(server.local_addr().unwrap()).await.unwrap();
    let mut hostile = 0;
    for file in ["json/cases.json", "http/cases.json"] {
        let text = std::fs::read_to_string(corpus.join(file)).unwrap();
        let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
        for case in cases.iter().filter(|case| case["expect"]["status"] != 200) {
            let request = on_the_wire(case);
            assert!(!request.is_empty(), "{}", case["name"]);
            let got = tokio::task::block_in_place(|| through(relay.address, &server, &request));
            assert!(got == request, "{} did not arrive as it was sent", case["name"]);
            hostile += 1;
        }
    }
    assert!(hostile > 0);
}
