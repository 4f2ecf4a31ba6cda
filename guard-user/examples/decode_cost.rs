//! What strict reading costs, beside plain `serde_json`, in one run: `cargo run --release --example decode_cost`.
//! Times are medians over interleaved rounds; compare the ratios, not the nanoseconds.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use mcp_guard::config::Config;
use mcp_guard::http::framing::Inspector;
use mcp_guard::rpc::{self, list, reply, sse};
use mcp_guard::tools::Tools;
use serde_json::value::RawValue;

const ROUNDS: usize = 61;
const CALLS_PER_ROUND: u32 = 2000;

fn main() {
    let body = Bytes::from(call());
    let request = request(&body);
    let mut headers = HeaderMap::new();
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    headers.insert("accept", http::HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert("host", http::HeaderValue::from_static("localhost:3001"));
    let tools = tools(50);
    let event = Bytes::from([b"event: message\ndata: ".as_slice(), &tools, b"\n\n"].concat());

    let state_dir = tempfile::tempdir().expect("a directory");
    let config = serde_json::json!({"servers": [{"name": "a", "port": 1}], "state_dir": state_dir.path()});
    let config: Config = serde_json::from_value(config).expect("a configuration");
    let server = config.servers[0].name.clone();
    let pins: &Tools = Box::leak(Box::new(Tools::open(&config).expect("no pins yet")));
    let list: &str = Box::leak(list_of(&tools).into_boxed_str());
    let entries: Vec<&RawValue> = serde_json::from_str(list).expect("a list");
    let names = (0..entries.len()).map(|index| &*format!("tool_{index}").leak());
    let entries: &[(&str, &RawValue)] = names.zip(entries).collect::<Vec<_>>().leak();

    let mut inspector = Inspector::new(32 * 1024);
    let mut subjects: Vec<(String, Box<dyn FnMut()>)> = vec![
        (format!("serde_json Value, call of {} bytes", body.len()), {
            let body = body.clone();
            Box::new(move || _ = black_box(serde_json::from_slice::<serde_json::Value>(&body).is_ok()))
        }),
        ("rpc::decode, the same call".to_owned(), {
            Box::new(move || _ = black_box(rpc::decode(&headers, body.clone(), 64).is_ok()))
        }),
        (format!("framing inspector, request of {} bytes", request.len()), {
            Box::new(move || _ = black_box(inspector.inspect(&request).is_ok()))
        }),
        (format!("serde_json Value, list of {} bytes", tools.len()), {
            let tools = tools.clone();
            Box::new(move || _ = black_box(serde_json::from_slice::<serde_json::Value>(&tools).is_ok()))
        }),
        ("reply::look, the same list".to_owned(), {
            let tools = tools.clone();
            Box::new(move || _ = black_box(reply::look(&tools).is_ok()))
        }),
        ("list::filter, the same list, 1 of 50 dropped".to_owned(), {
            Box::new(move || {
                let keep = |target: rpc::Target<'_>| target != rpc::Target::Tool("tool_7");
                _ = black_box(list::filter(&tools, &keep, 300_000).is_ok());
            })
        }),
        ("tools::Tools::look, the same list, known".to_owned(), {
            let server = server.clone();
            Box::new(move || _ = black_box(pins.look(&server, list, entries.iter().copied()).is_ok()))
        }),
        ("tools::Tools::look, the same list, read anew".to_owned(), {
            let mut round = 0_u32;
            Box::new(move || {
                // Another text with the same tools.
                round += 1;
                let text = format!("{round}{list}");
                _ = black_box(pins.look(&server, &text, entries.iter().copied()).is_ok());
            })
        }),
        ("sse::Events, the same list as an event".to_owned(), {
            Box::new(move || {
                let mut events = sse::Events::new(16 * 1024 * 1024);
                events.push(event.clone());
                _ = black_box(events.next_piece().is_ok());
            })
        }),
    ];

    let mut nanoseconds: Vec<Vec<u128>> = vec![Vec::with_capacity(ROUNDS); subjects.len()];
    for _ in 0..ROUNDS {
        for (times, (_, subject)) in nanoseconds.iter_mut().zip(&mut subjects) {
            let start = Instant::now();
            (0..CALLS_PER_ROUND).for_each(|_| subject());
            times.push(start.elapsed().as_nanos() / u128::from(CALLS_PER_ROUND));
        }
    }
    for (times, (name, _)) in nanoseconds.iter_mut().zip(&subjects) {
        times.sort_unstable();
        println!("{:>8} ns (best {:>8})  {name}", times[ROUNDS / 2], times[0]);
    }
}

fn call() -> Vec<u8> {
    let note = "The customer asked twice; see the earlier ticket. ".repeat(13);
    let value = serde_json::json!({
        "jsonrpc": "2.0", "id": 17, "method": "tools/call",
        "params": {
            "name": "update_account",
            "arguments": {
                "customer_id": "cus_8f4c2a", "fields": {"email": "someone@example.com", "plan": "team", "seats": 25},
                "tags": ["vip", "renewal", "q4"], "amount": 129.95, "notify": true, "note": note,
                "history": [{"at": "2026-11-01", "by": "a"}, {"at": "2026-11-02", "by": "b"}, {"at": "2026-11-03", "by": "c"}]
            },
            "_meta": {"progressToken": 17}
        }
    });
    serde_json::to_vec(&value).expect("a JSON value")
}

fn request(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost:3001\r\ncontent-type: application/json\r\naccept: application/json, \
         text/event-stream\r\nx-client-id: support-app\r\nx-profile-id: default\r\nauthorization: Bearer \
         0123456789abcdef0123456789abcdef\r\nuser-agent: node\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The list alone.
fn list_of(tools: &[u8]) -> String {
    let message: serde_json::Value = serde_json::from_slice(tools).expect("a JSON value");
    message["result"]["tools"].to_string()
}

fn tools(count: usize) -> Vec<u8> {
    let tool = |index: usize| {
        serde_json::json!({
            "name": format!("tool_{index}"), "title": "A tool", "description": "Does what its name says. ".repeat(8),
            "inputSchema": {"type": "object", "properties": {"id": {"type": "string"}, "limit": {"type": "integer"}}}
        })
    };
    let tools: Vec<_> = (0..count).map(tool).collect();
    serde_json::to_vec(&serde_json::json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}))
        .expect("a JSON value")
}
