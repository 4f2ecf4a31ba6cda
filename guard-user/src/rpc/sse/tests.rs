use proptest::prelude::*;

use super::*;

fn pieces(chunks: &[&[u8]]) -> (Vec<Piece>, Vec<u8>) {
    let mut events = Events::new(4096);
    let mut all = Vec::new();
    for chunk in chunks {
        events.push(Bytes::copy_from_slice(chunk));
        while let Some(piece) = events.next_piece().unwrap() {
            all.push(piece);
        }
    }
    (all, events.rest().to_vec())
}

/// (event, id, data) of each piece with any of them.
fn messages(chunks: &[&[u8]]) -> Vec<(Option<String>, Option<String>, String)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let (pieces, _) = pieces(chunks);
    let told =
        pieces.iter().filter(|piece| piece.id.is_some() || piece.event.is_some() || !piece.data.is_empty());
    told.map(|piece| (piece.event.as_ref().map(text), piece.id.as_ref().map(text), text(&piece.data)))
        .collect()
}

fn data(text: &str) -> (Option<String>, Option<String>, String) {
    (None, None, text.to_owned())
}

#[test]
fn every_line_ending_and_field_form_is_read() {
    for ending in ["\n", "\r\n"] {
        let stream = "event: message|id:7|retry: 500|data: {|data:1|data:  }||".replace('|', ending);
        let expected = (Some("message".to_owned()), Some("7".to_owned()), "{\n1\n }".to_owned());
        assert_eq!(messages(&[stream.as_bytes()]), [expected], "{ending:?}");
    }
    assert_eq!(messages(&[b"dat: c\ndata: d\n\n"]), [data("d")]);
}

#[test]
fn a_field_or_an_event_that_some_clients_take_for_another_ends_the_stream() {
    for lines in [
        "Data: a",
        "data : a",
        " data: a",
        "ID: 1",
        "event: message |data: a",
        "event:  message|data: a",
        "event: Message|data: a",
        "event: endpoint\t|data: /m",
        "event: message\0|data: a",
    ] {
        let mut events = Events::new(4096);
        events.push(Bytes::from(format!("{lines}||").replace('|', "\n")));
        assert_eq!(events.next_piece(), Err(StreamFault::Unclear), "{lines:?}");
    }
    assert_eq!(messages(&[b"event: messages\ndata: a\n\n"]).len(), 1);
}

#[test]
fn only_plain_events_with_data_are_messages() {
    let first = |stream: &[u8]| pieces(&[stream]).0[0].is_message();
    assert!(first(b"data: {}\n\n"));
    assert!(first(b"event: message\ndata: {}\n\n"));
    assert!(first(b"event\ndata: {}\n\n"));
    assert!(!first(b"event: other\ndata: {}\n\n"));
    assert!(!first(b"id: 1\ndata:\n\n"));
    assert!(!first(b": data: {}\n\n"));
}

#[test]
fn comments_and_priming_events_pass_at_once() {
    let (all, rest) = pieces(&[b": ping\n", b"\n", b"id: 1\ndata:\n\n", b"data: x"]);
    let raw: Vec<&[u8]> = all.iter().map(|piece| &*piece.raw).collect();
    assert_eq!(raw, [&b": ping\n"[..], b"\n", b"id: 1\ndata:\n\n"]);
    assert_eq!(rest, b"data: x");
    // Inside an event a comment belongs to it.
    assert_eq!(pieces(&[b"data: a\n: c\ndata: b\n\n"]).0.len(), 1);
}

fn fault(stream: &[u8]) -> Option<StreamFault> {
    let mut events = Events::new(4096);
    events.push(Bytes::copy_from_slice(stream));
    loop {
        match events.next_piece() {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(fault) => return Some(fault),
        }
    }
}

#[test]
fn what_clients_cut_in_different_places_ends_the_stream() {
    for stream in [
        // A line's end for Python's `splitlines`, and nothing for others.
        "id: 1\u{2028}data: {}\n\n",
        ": c\u{85}data: {}\u{85}\u{85}\n",
        "event: other\u{2029}event: message\ndata: {}\n\n",
        "retry: 5\u{b}data: {}\n\n",
        "x\u{1c}data: {}\n\n",
        "event: other\ndata:\u{2028}event: message\u{2028}data: {}\n\n",
        // A lone CR ends a line, but one client waits for what follows it.
        "data: a\r\r",
        "data: a\r\rdata: b\n\n",
        ": c\rdata: a\n\n",
        // A byte order mark goes at the start of a stream, or does not; another client takes its Latin-1 form for one.
        "\u{feff}data: {}\n\n",
        "\u{ef}\u{bb}\u{bf}data: {}\n\n",
        "data: a\n\n\u{feff}data: {}\n\n",
        "d\u{e4}ta: {}\n\n",
        "\0data: {}\n\n",
    ] {
        let fault = fault(stream.as_bytes());
        let unfinished = stream.ends_with('\r');
        assert_eq!(fault, (!unfinished).then_some(StreamFault::Unclear), "{stream:?}");
    }
    for stream in
        ["data: \u{2028}\n\n", ": caf\u{e9} \u{1f600}\n", "unknown: x\n\n", "x\n\n", "id: \u{e9}\n\n"]
    {
        assert_eq!(fault(stream.as_bytes()), None, "{stream:?}");
    }
}

#[test]
fn a_text_that_some_would_cut_into_lines_goes_on_with_escapes() {
    let text = "id: 1\ndata: {\"a\":\"x\u{2028}\u{2028}data: {}\u{2029}\u{85}\u{e9}\"}\n\n";
    let piece = pieces(&[text.as_bytes()]).0.remove(0);
    let passed = piece.passing(&piece.data);
    assert_eq!(passed, "id: 1\ndata: {\"a\":\"x\\u2028\\u2028data: {}\\u2029\\u0085\u{e9}\"}\n\n".as_bytes());
    let read = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    let again = pieces(&[&passed]).0.remove(0);
    assert_eq!(read(&again.data), read(&piece.data));
    let plain = pieces(&[b"data: {\"a\":1}\n\n"]).0.remove(0);
    assert_eq!(plain.passing(&plain.data), plain.raw);
}

#[test]
fn an_event_is_bounded_even_in_small_pieces() {
    let mut events = Events::new(16);
    events.push(Bytes::from_static(b"data: 89012345\n\n"));
    assert_eq!(events.next_piece().unwrap().unwrap().raw.len(), 16);
    events.push(Bytes::from_static(b"data: 890123456\n\n"));
    assert_eq!(events.next_piece(), Err(StreamFault::TooLarge));
    let mut events = Events::new(16);
    for _ in 0..16 {
        events.push(Bytes::from_static(b"d"));
        assert_eq!(events.next_piece(), Ok(None));
    }
    events.push(Bytes::from_static(b"d"));
    assert_eq!(events.next_piece(), Err(StreamFault::TooLarge));
}

#[test]
fn new_data_takes_the_place_of_the_old() {
    let piece = |stream: &'static [u8]| pieces(&[stream]).0.remove(0);
    let event = piece(b"id: 1\r\ndata: a\r\nretry: 5\r\ndata: b\r\n: c\r\n\r\n");
    assert_eq!(event.with_data(b"x"), &b"id: 1\r\ndata: x\r\nretry: 5\r\n: c\r\n\r\n"[..]);
    assert_eq!(piece(b"data:a\n\n").with_data(b"x\ny"), &b"data: x\ndata: y\n\n"[..]);
}

proptest! {
    #[test]
    fn any_bytes_in_any_cuts_come_out_unchanged_and_read_the_same(
        lines in prop::collection::vec(
            (prop_oneof![
                Just(String::new()), Just(": c".to_owned()), Just("data".to_owned()),
                "data: ?[a-zé\u{1f600}]{0,6}", "(id|event|retry|x): [a-zé]{0,4}",
                "[a-z: ]{0,8}".prop_filter("plain", |line| {
                    !is_disguised(line.split(':').next().unwrap().as_bytes(), &FIELDS)
                }),
            ], prop_oneof![Just("\n"), Just("\r\n")]),
            0..24,
        ),
        cuts in prop::collection::vec(1_usize..9, 1..20),
    ) {
        let stream: String = lines.iter().flat_map(|(line, ending)| [line.as_str(), ending]).collect();
        let mut chunks: Vec<&[u8]> = Vec::new();
        let mut rest = stream.as_bytes();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (chunk, next) = rest.split_at(*cut.min(&rest.len()));
            chunks.push(chunk);
            rest = next;
        }
        let (cut, rest) = pieces(&chunks);
        let mut out: Vec<u8> = cut.iter().flat_map(|piece| piece.raw.to_vec()).collect();
        out.extend_from_slice(&rest);
        prop_assert_eq!(&out, stream.as_bytes());
        prop_assert_eq!(messages(&chunks), messages(&[stream.as_bytes()]));
    }

    #[test]
    fn new_data_is_what_a_client_then_reads(data in "[a-z{}\n]{1,20}", ending in prop_oneof![Just("\n"), Just("\r\n")]) {
        let stream = "id: 1|data: old|data: older||".replace('|', ending);
        let changed = pieces(&[stream.as_bytes()]).0[0].with_data(data.as_bytes());
        let (read, rest) = pieces(&[&changed]);
        prop_assert_eq!((read.len(), rest.len()), (1, 0));
        prop_assert_eq!(&read[0].data, data.as_bytes());
        prop_assert_eq!(read[0].id.as_deref(), Some(&b"1"[..]));
    }
}

#[test]
fn what_no_client_reads_of_an_event_does_not_go_on_where_answers_are_looked_into() {
    let text = b"id: 7\nevent: message\n: 4111 1111 1111 1111\nx: AKIA\nretry: 50\nretry: AKIA\ndata: {\n: more\ndata: }\n\n";
    let (pieces, _rest) = pieces(&[&text[..]]);
    let passed = pieces[0].bare(b"{}");
    assert_eq!(passed, &b"id: 7\nretry: 50\ndata: {}\n\n"[..]);
}
