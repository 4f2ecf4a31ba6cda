use proptest::prelude::*;

use super::*;

const HEAD_BYTES_MAX: usize = 1024;

/// The same verdict must come for any cut of the bytes.
fn inspect(bytes: &[u8]) -> Result<(), FramingError> {
    let whole = Inspector::new(HEAD_BYTES_MAX).inspect(bytes);
    let mut inspector = Inspector::new(HEAD_BYTES_MAX);
    let by_byte = bytes.chunks(1).try_for_each(|byte| inspector.inspect(byte));
    assert_eq!(whole, by_byte, "{}", bytes.escape_ascii());
    whole
}

fn post(headers: &str, body: &str) -> Result<(), FramingError> {
    inspect(format!("POST /mcp HTTP/1.1\r\nHost: h\r\n{headers}\r\n{body}").as_bytes())
}

#[test]
fn plain_requests_pass() {
    assert_eq!(post("", ""), Ok(()));
    assert_eq!(post("content-length:5 \t\r\n", "hello"), Ok(()));
    assert_eq!(post("Content-Length: 0\r\n", ""), Ok(()));
    assert_eq!(post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n"), Ok(()));
    assert_eq!(post("X-Empty:\r\nX-Latin: \u{e4}\r\n", ""), Ok(()));
    assert_eq!(inspect(b"\r\nGET /mcp?a=%20b HTTP/1.1\r\nHost: h\r\n\r\n"), Ok(()));
}

#[test]
fn the_next_request_is_found_behind_any_body() {
    let bad = "GET / HTTP/1.0\r\n";
    assert_eq!(post("Content-Length: 5\r\n", &format!("a\nb\nc{bad}")), Err(FramingError::Version));
    assert_eq!(
        post("Transfer-Encoding: chunked\r\n", &format!("2\r\n\n\n\r\n0\r\n\r\n{bad}")),
        Err(FramingError::Version)
    );
    assert_eq!(post("", bad), Err(FramingError::Version));
}

#[test]
fn lengths_that_can_be_read_twice_are_refused() {
    for value in ["+1", "1,1", "1 1", "", "0x1", "-1", "01", "1.0", "99999999999999999999", "1;"] {
        assert_eq!(
            post(&format!("Content-Length: {value}\r\n"), ""),
            Err(FramingError::ContentLength),
            "{value}"
        );
    }
    assert_eq!(
        post("Content-Length: 1\r\ncontent-length: 1\r\n", ""),
        Err(FramingError::ContentLengthRepeated)
    );
    assert_eq!(
        post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", ""),
        Err(FramingError::TwoLengths)
    );
    for value in ["xchunked", "chunked, identity", "Chunked", "gzip, chunked", "", "chunked;q=1", "identity"]
    {
        let headers = format!("Transfer-Encoding: {value}\r\n");
        assert_eq!(post(&headers, ""), Err(FramingError::TransferEncoding), "{value}");
    }
    let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(post(twice, ""), Err(FramingError::TransferEncoding));
}

#[test]
fn chunks_are_hex_lengths_and_nothing_else() {
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    for size in ["", "g", " 5", "5 ", "0x5", "+5", "05", "00", "123456789"] {
        assert_eq!(chunked(&format!("{size}\r\n")), Err(FramingError::ChunkSize), "{size:?}");
    }
    for line in ["5;a=b\r\n", "5;\r\n", "5 ;a\r\n"] {
        assert!(matches!(chunked(line), Err(FramingError::ChunkExtension)), "{line:?}");
    }
    assert_eq!(chunked("1\r\nab\r\n"), Err(FramingError::ChunkEnd));
    assert_eq!(chunked("1\na"), Err(FramingError::BareLineFeed));
    assert_eq!(chunked("1\r\na\n"), Err(FramingError::BareLineFeed));
    assert_eq!(chunked("0\r\nA: b\r\n\r\n"), Err(FramingError::Trailer));
    assert_eq!(chunked("0\r\n\n"), Err(FramingError::BareLineFeed));
}

#[test]
fn lines_have_one_reading() {
    assert_eq!(post("A: b\n", ""), Err(FramingError::BareLineFeed));
    assert_eq!(inspect(b"GET / HTTP/1.1\r\nHost: h\r\n\n"), Err(FramingError::BareLineFeed));
    assert_eq!(post("A: b\rC: d\r\n", ""), Err(FramingError::BareCarriageReturn));
    assert_eq!(post("A: b\r\r\n", ""), Err(FramingError::BareCarriageReturn));
    assert_eq!(post("A: b\r\n c\r\n", ""), Err(FramingError::FoldedLine));
    assert_eq!(post("A: b\r\n\tc\r\n", ""), Err(FramingError::FoldedLine));
    for line in ["A : b", ": b", "A", "A b: c", "A\u{e4}: b", "A(: b", "A\0: b"] {
        assert_eq!(post(&format!("{line}\r\n"), ""), Err(FramingError::HeaderName), "{line:?}");
    }
    for value in ["\0", "a\x01", "\x7f", "\x1b[0m"] {
        assert_eq!(post(&format!("A: {value}\r\n"), ""), Err(FramingError::ControlCharacter), "{value:?}");
    }
    assert_eq!(post("HOST: h\r\n", ""), Err(FramingError::Host));
    assert_eq!(inspect(b"GET / HTTP/1.1\r\n\r\n"), Err(FramingError::Host));
    assert_eq!(inspect(b"\r\n\r\nGET / HTTP/1.1\r\n"), Err(FramingError::EmptyLines));
}

#[test]
fn the_request_line_has_one_form() {
    let table = [
        ("GET http://h/mcp HTTP/1.1", FramingError::Target),
        ("CONNECT h:443 HTTP/1.1", FramingError::Target),
        ("OPTIONS * HTTP/1.1", FramingError::Target),
        ("GET /a#b HTTP/1.1", FramingError::Target),
        ("GET /\u{e4} HTTP/1.1", FramingError::Target),
        ("GET / HTTP/1.0", FramingError::Version),
        ("GET / http/1.1", FramingError::Version),
        ("PRI * HTTP/2.0", FramingError::Version),
        ("GET /", FramingError::RequestLine),
        ("GET  / HTTP/1.1", FramingError::RequestLine),
        ("GET / HTTP/1.1 ", FramingError::RequestLine),
        (" GET / HTTP/1.1", FramingError::RequestLine),
        ("G(T / HTTP/1.1", FramingError::RequestLine),
        ("GET\t/ HTTP/1.1", FramingError::RequestLine),
        ("GET /\0 HTTP/1.1", FramingError::ControlCharacter),
    ];
    for (line, fault) in table {
        assert_eq!(inspect(format!("{line}\r\nHost: h\r\n\r\n").as_bytes()), Err(fault), "{line:?}");
    }
}

#[test]
fn a_head_is_bounded_and_its_bytes_are_counted_per_request() {
    let head = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nHost: h\r\nA: ";
        format!("{start}{}\r\n\r\n", "a".repeat(bytes - start.len() - 4))
    };
    assert_eq!(inspect(head(HEAD_BYTES_MAX).repeat(3).as_bytes()), Ok(()));
    assert_eq!(inspect(head(HEAD_BYTES_MAX + 1).as_bytes()), Err(FramingError::HeadTooLarge));
    assert_eq!(inspect("a".repeat(HEAD_BYTES_MAX + 1).as_bytes()), Err(FramingError::HeadTooLarge));
}

#[test]
fn a_fault_is_final() {
    let mut inspector = Inspector::new(HEAD_BYTES_MAX);
    assert_eq!(inspector.inspect(b"GET / HTTP/1.0\r\n"), Err(FramingError::Version));
    assert_eq!(inspector.inspect(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"), Err(FramingError::Version));
    assert_eq!(inspector.inspect(b""), Err(FramingError::Version));
}

fn any_request() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(any::<u8>(), 0..40);
    let headers = prop::collection::vec(("x-[a-z]{1,8}", "[ -~]{0,20}"), 0..4);
    (headers, body, any::<bool>()).prop_map(|(headers, body, is_chunked)| {
        let mut bytes = b"POST /mcp HTTP/1.1\r\nHost: h\r\n".to_vec();
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if is_chunked {
            bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            for chunk in body.chunks(7) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        } else {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(&body);
        }
        bytes
    })
}

proptest! {
    #[test]
    fn well_framed_requests_pass_however_they_are_cut(
        requests in prop::collection::vec(any_request(), 1..5),
        cuts in prop::collection::vec(1_usize..60, 1..40),
    ) {
        let bytes = requests.concat();
        let mut inspector = Inspector::new(HEAD_BYTES_MAX);
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            let (piece, next) = rest.split_at(*cut.min(&rest.len()));
            prop_assert_eq!(inspector.inspect(piece), Ok(()));
            rest = next;
            if rest.is_empty() { break; }
        }
        // All of it was taken for whole requests: the next byte starts a new one.
        prop_assert_eq!(inspector.state, State::START);
    }

    #[test]
    fn any_bytes_get_the_same_verdict_however_they_are_cut(bytes in prop::collection::vec(
        prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), Just(b'0'), Just(b'5'), any::<u8>()], 0..80,
    ), prefix in 0_usize..4) {
        let prefixes: [&[u8]; 4] = [
            b"",
            b"POST / HTTP/1.1\r\nHost: h\r\n",
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n",
        ];
        let all = [prefixes[prefix], &bytes].concat();
        let whole = Inspector::new(HEAD_BYTES_MAX).inspect(&all);
        let mut inspector = Inspector::new(HEAD_BYTES_MAX);
        let by_byte = all.chunks(1).try_for_each(|byte| inspector.inspect(byte));
        prop_assert_eq!(whole.is_ok(), by_byte.is_ok());
    }
}

#[test]
fn the_fault_of_a_chunk_line_does_not_depend_on_its_pieces() {
    for (line, fault) in [
        ("2;x\r\n", FramingError::ChunkExtension),
        ("2;a=bbbbbbbbbbbbbbbbbbbb\r\n", FramingError::ChunkExtension),
        ("22222222222222;x\r\n", FramingError::ChunkSize),
        ("\t\t\t\t\t\t\t\t\t\t\t28;\n", FramingError::ChunkSize),
    ] {
        let head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bytes = [&head[..], line.as_bytes()].concat();
        for pieces in [1, 3, bytes.len()] {
            let mut inspector = Inspector::new(4096);
            let verdict = bytes.chunks(pieces).try_for_each(|piece| inspector.inspect(piece));
            assert_eq!(verdict, Err(fault), "{line:?} in pieces of {pieces}");
        }
    }
}
