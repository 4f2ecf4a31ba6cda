//! HTTP/2 as it should not be: each fault ends its stream or its connection, and nothing of it reaches the server.

use guard_tests::h2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, End, Frames, GOAWAY, HEADERS, PADDED, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, WITH_PRIORITY, encode, frame, head, literal,
};
use guard_tests::scene::{Scene, apart, call, done};
use serde_json::json;

/// Error codes of RFC 9113.
const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const COMPRESSION: u32 = 9;

/// A call on another connection works: nobody else is hurt.
fn assert_healthy(scene: &Scene) {
    let mut line = scene.https.line().unwrap();
    line.send(&scene.post(&call(7, "open")).bytes()).unwrap();
    let heard = scene.puppet.hear().unwrap();
    assert_eq!(heard.message(), call(7, "open"), "nothing else has reached the server");
    heard.answer(&done(7)).unwrap();
    assert_eq!(line.answer().unwrap().json(), done(7));
}

/// The request's head with changes to it, as a header block.
fn changed(scene: &Scene, change: impl FnOnce(&mut Vec<(String, String)>)) -> Vec<u8> {
    let mut fields = head(&scene.post(&call(1, "open")));
    change(&mut fields);
    encode(&fields)
}

fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// A setting.
fn setting(number: u16, value: u32) -> Vec<u8> {
    [&number.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

#[test]
fn frames_that_break_a_rule_end_the_connection() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let good = changed(&scene, |_| {});
        let (open, ended) = (END_HEADERS, END_HEADERS | END_STREAM);
        let opened = |stream| frame(HEADERS, open, stream, &good);
        let then = |first: Vec<u8>, next: Vec<u8>| [first, next].concat();
        let padded = [&[255][..], &good[..32]].concat();
        let cases: Vec<(&str, Vec<u8>, &[u32])> = vec![
            ("DATA on stream 0", frame(DATA, 0, 0, b"x"), &[PROTOCOL]),
            ("HEADERS on stream 0", frame(HEADERS, ended, 0, &good), &[PROTOCOL]),
            ("HEADERS on an even stream", frame(HEADERS, ended, 2, &good), &[PROTOCOL]),
            ("an older stream opened", then(opened(5), opened(3)), &[PROTOCOL, STREAM_CLOSED]),
            ("DATA on an idle stream", frame(DATA, END_STREAM, 1, b"x"), &[PROTOCOL, STREAM_CLOSED]),
            ("WINDOW_UPDATE on an idle stream", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), &[PROTOCOL]),
            ("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), &[PROTOCOL]),
            ("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]), &[PROTOCOL]),
            ("RST_STREAM of three bytes", then(opened(1), frame(RST_STREAM, 0, 1, &[0; 3])), &[FRAME_SIZE]),
            ("SETTINGS of seven bytes", frame(SETTINGS, 0, 0, &[0; 7]), &[FRAME_SIZE]),
            ("SETTINGS acknowledged with content", frame(SETTINGS, ACK, 0, &[0; 6]), &[FRAME_SIZE]),
            ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), &[PROTOCOL]),
            ("ENABLE_PUSH of 2", frame(SETTINGS, 0, 0, &setting(2, 2)), &[PROTOCOL]),
            ("INITIAL_WINDOW_SIZE too large", frame(SETTINGS, 0, 0, &setting(4, 1 << 31)), &[FLOW_CONTROL]),
            ("MAX_FRAME_SIZE too small", frame(SETTINGS, 0, 0, &setting(5, 16_383)), &[PROTOCOL]),
            ("MAX_FRAME_SIZE too large", frame(SETTINGS, 0, 0, &setting(5, 1 << 24)), &[PROTOCOL]),
            ("PING on a stream", frame(PING, 0, 1, &[0; 8]), &[PROTOCOL]),
            ("PING of seven bytes", frame(PING, 0, 0, &[0; 7]), &[FRAME_SIZE]),
            ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), &[PROTOCOL]),
            (
                "PUSH_PROMISE of a client",
                then(opened(1), frame(PUSH_PROMISE, open, 1, &[0, 0, 0, 2])),
                &[PROTOCOL],
            ),
            ("PRIORITY of four bytes", frame(PRIORITY, 0, 1, &[0; 4]), &[FRAME_SIZE]),
            ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0; 5]), &[PROTOCOL]),
            ("WINDOW_UPDATE of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), &[PROTOCOL]),
            ("WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), &[FRAME_SIZE]),
            (
                "a window beyond its bound",
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]),
                &[FLOW_CONTROL],
            ),
            ("a frame of 16,385 bytes", then(opened(1), frame(DATA, 0, 1, &[b' '; 16_385])), &[FRAME_SIZE]),
            ("DATA padded beyond its end", then(opened(1), frame(DATA, PADDED, 1, &[9, b'x'])), &[PROTOCOL]),
            ("HEADERS padded beyond their end", frame(HEADERS, ended | PADDED, 1, &padded), &[PROTOCOL]),
            ("CONTINUATION of nothing", frame(CONTINUATION, open, 1, &good), &[PROTOCOL]),
            ("CONTINUATION after the end", then(opened(1), frame(CONTINUATION, open, 1, &good)), &[PROTOCOL]),
            (
                "DATA within a header block",
                then(frame(HEADERS, 0, 1, &good), frame(DATA, 0, 1, b"x")),
                &[PROTOCOL],
            ),
            (
                "PING within a header block",
                then(frame(HEADERS, 0, 1, &good), frame(PING, 0, 0, &[0; 8])),
                &[PROTOCOL],
            ),
            ("another stream's HEADERS", then(frame(HEADERS, 0, 1, &good), opened(3)), &[PROTOCOL]),
            (
                "another stream's CONTINUATION",
                then(frame(HEADERS, 0, 1, &good), frame(CONTINUATION, open, 3, &[])),
                &[PROTOCOL],
            ),
            ("an index of 0", frame(HEADERS, ended, 1, &[0x80]), &[COMPRESSION]),
            ("an index beyond the table", frame(HEADERS, ended, 1, &[0xff, 0x20]), &[COMPRESSION]),
            ("an integer without end", frame(HEADERS, ended, 1, &[0xff; 12]), &[COMPRESSION]),
            (
                "a table of 2^28 bytes",
                frame(HEADERS, ended, 1, &[0x3f, 0xe1, 0xff, 0xff, 0x7f]),
                &[COMPRESSION],
            ),
            (
                "Huffman padding of zeros",
                frame(HEADERS, ended, 1, &[0, 0x81, 0, 0x81, 0]),
                &[COMPRESSION, PROTOCOL],
            ),
            ("a literal cut off", frame(HEADERS, ended, 1, &[0, 9, b'x']), &[COMPRESSION]),
        ];
        let mut wrong = Vec::new();
        for (name, bytes, codes) in cases {
            let mut frames = Frames::open(&scene.https).unwrap();
            frames.send(&bytes).unwrap();
            let end = frames.end(1);
            let is_right = match end {
                // The library often has the general code.
                End::GoAway(code) | End::Reset(code) => code == PROTOCOL || codes.contains(&code),
                End::Closed => true,
                End::Answered(_) | End::Alive => false,
            };
            if !is_right {
                wrong.push(format!("{name}: {end:?}, expected {codes:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));

        let mut frames = Frames::silent(&scene.https).unwrap();
        frames.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").unwrap();
        assert!(matches!(frames.end(1), End::Closed | End::GoAway(_)), "a wrong preface");
        assert_healthy(&scene);
    });
}

#[test]
fn requests_that_break_a_rule_are_refused_and_never_reach_the_server() {
    type Change = fn(&mut Vec<(String, String)>);
    let cases: Vec<(&str, Change)> = vec![
        ("a name in capitals", |head| head.push(field("X-Upper", "1"))),
        ("connection", |head| head.push(field("connection", "close"))),
        ("keep-alive", |head| head.push(field("keep-alive", "1"))),
        ("proxy-connection", |head| head.push(field("proxy-connection", "close"))),
        ("transfer-encoding", |head| head.push(field("transfer-encoding", "chunked"))),
        ("upgrade", |head| head.push(field("upgrade", "h2c"))),
        ("te other than trailers", |head| head.push(field("te", "gzip"))),
        ("a pseudo-header behind a field", |head| head.push(field(":path", "/other"))),
        ("a pseudo-header behind a field, the only one", |head| {
            let path = head.remove(2);
            head.push(path);
        }),
        ("an unknown pseudo-header", |head| head.insert(0, field(":other", "1"))),
        ("a response's pseudo-header", |head| head.insert(0, field(":status", "200"))),
        ("no :method", |head| drop(head.remove(0))),
        ("no :scheme", |head| drop(head.remove(1))),
        ("no :path", |head| drop(head.remove(2))),
        (":method twice", |head| head.insert(1, field(":method", "POST"))),
        (":path twice", |head| head.insert(1, field(":path", "/mcp"))),
        (":scheme twice", |head| head.insert(1, field(":scheme", "https"))),
        (":authority twice", |head| head.insert(1, field(":authority", "localhost"))),
        ("an empty :path", |head| head[2].1.clear()),
        ("a :path without a slash", |head| head[2].1 = "mcp".to_owned()),
        ("an absolute :path", |head| head[2].1 = "http://other/mcp".to_owned()),
        ("a :path with a space", |head| head[2].1 = "/mcp HTTP/1.1".to_owned()),
        ("a :path with lines", |head| head[2].1 = "/mcp HTTP/1.1\r\nX: y".to_owned()),
        ("an asterisk", |head| head[2].1 = "*".to_owned()),
        ("a :method with lines", |head| head[0].1 = "POST /x HTTP/1.1\r\n\r\nPOST".to_owned()),
        ("CONNECT", |head| head[0].1 = "CONNECT".to_owned()),
        ("extended CONNECT", |head| {
            head[0].1 = "CONNECT".to_owned();
            head.insert(1, field(":protocol", "websocket"));
        }),
        ("an :authority with lines", |head| head[3].1 = "localhost\r\nX: y".to_owned()),
        ("another Host than :authority", |head| head.push(field("host", "other"))),
        ("neither Host nor :authority", |head| drop(head.remove(3))),
        ("two Hosts", |head| head.extend([field("host", "localhost"), field("host", "localhost")])),
        ("CR LF in a value", |head| head.push(field("x-split", "a\r\nmcp-name: b"))),
        ("LF in a value", |head| head.push(field("x-split", "a\nb"))),
        ("NUL in a value", |head| head.push(field("x-nul", "a\0b"))),
        ("CR LF in a name", |head| head.push(field("x\r\ny", "1"))),
        ("a colon in a name", |head| head.push(field("x:y", "1"))),
        ("a space in a name", |head| head.push(field("x y", "1"))),
        ("an empty name", |head| head.push(field("", "1"))),
        ("a longer content-length", |head| head.push(field("content-length", "5000"))),
        ("a shorter content-length", |head| head.push(field("content-length", "5"))),
        ("two content-lengths", |head| {
            head.extend([field("content-length", "5"), field("content-length", "6")]);
        }),
        ("a content-length with a sign", |head| head.push(field("content-length", "+5"))),
        ("Mcp-Name twice", |head| head.extend([field("mcp-name", "a"), field("mcp-name", "b")])),
        ("Mcp_Name", |head| head.push(field("mcp_name", "a"))),
    ];
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let mut wrong = Vec::new();
        for (name, change) in cases {
            let mut frames = Frames::open(&scene.https).unwrap();
            frames.send(&frame(HEADERS, END_HEADERS, 1, &changed(&scene, change))).unwrap();
            // It may be reset already.
            let _ = frames.send(&frame(DATA, END_STREAM, 1, call(1, "open").to_string().as_bytes()));
            let end = frames.fate(1);
            let is_refused = match end {
                End::GoAway(code) | End::Reset(code) => code == PROTOCOL,
                End::Answered(status) => matches!(status, 400 | 404),
                // What it said last is lost if our next frame met a closed socket.
                End::Closed => true,
                End::Alive => false,
            };
            if !is_refused || scene.puppet.heard().is_some() {
                wrong.push(format!("{name}: {end:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));

        for (name, value) in [(":path", "/other"), ("mcp-name", "other")] {
            let mut frames = Frames::open(&scene.https).unwrap();
            frames.send(&frame(HEADERS, END_HEADERS, 1, &changed(&scene, |_| {}))).unwrap();
            frames.send(&frame(DATA, 0, 1, call(1, "open").to_string().as_bytes())).unwrap();
            let trailer = literal(name.as_bytes(), value.as_bytes());
            frames.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailer)).unwrap();
            let end = frames.fate(1);
            let is_refused = matches!(end, End::GoAway(PROTOCOL) | End::Reset(PROTOCOL) | End::Answered(400));
            assert!(is_refused, "a trailer {name}: {end:?}");
        }
        assert_healthy(&scene);
    });
}

#[test]
fn a_request_in_order_and_after_the_end_of_another_works() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let mut frames = Frames::open(&scene.https).unwrap();
        // In pieces, padded, with a priority and fields that end nowhere near a frame.
        let block = changed(&scene, |_| {});
        let (first, rest) = block.split_at(11);
        frames.send(&frame(HEADERS, WITH_PRIORITY, 1, &[&[0, 0, 0, 0, 16][..], first].concat())).unwrap();
        for piece in rest.chunks(rest.len() / 2) {
            frames.send(&frame(CONTINUATION, 0, 1, piece)).unwrap();
        }
        frames.send(&frame(CONTINUATION, END_HEADERS, 1, &[])).unwrap();
        let body = call(1, "open").to_string();
        for piece in body.as_bytes().chunks(16) {
            frames.send(&frame(DATA, PADDED, 1, &[&[3][..], piece, &[0; 3]].concat())).unwrap();
        }
        frames.send(&frame(0xfa, 0, 1, b"unknown kinds are passed over")).unwrap();
        frames.send(&frame(DATA, END_STREAM, 1, &[])).unwrap();
        let heard = scene.puppet.hear().unwrap();
        assert_eq!(heard.message(), call(1, "open"));
        assert_eq!(heard.header("Host"), Some("localhost"));
        heard.answer(&done(1)).unwrap();
        assert_eq!(frames.fate(1), End::Answered(200));
        assert_eq!(frames.body(1).unwrap(), done(1).to_string());

        frames.ask(3, &scene.post(&call(3, "open"))).unwrap();
        scene.puppet.hear().unwrap().answer(&done(3)).unwrap();
        assert_eq!(frames.fate(3), End::Answered(200));
        assert_eq!(frames.body(3).unwrap(), done(3).to_string());
    });
}
