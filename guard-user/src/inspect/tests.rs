use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The places alone.
fn look(text: &[u8], kinds: Kinds, is_message: bool) -> Vec<Place> {
    super::look(text, kinds, is_message).places
}

fn look_plain(text: &[u8], kinds: Kinds) -> Vec<Place> {
    super::look_plain(text, kinds).places
}

fn found(text: &Value, kinds: Kinds) -> Vec<(Kind, String)> {
    let text = text.to_string();
    look(text.as_bytes(), kinds, false)
        .into_iter()
        .map(|place| (place.kind, text.get(place.range).unwrap().to_owned()))
        .collect()
}

fn all(text: &str) -> Vec<(Kind, String)> {
    found(&json!({ "text": text }), Kinds::ALL)
}

fn masked(text: &str, kinds: Kinds) -> String {
    let places = look(text.as_bytes(), kinds, false);
    String::from_utf8(mask(text.as_bytes(), &places, kinds)).unwrap()
}

#[test]
fn each_kind_is_found_and_what_only_looks_like_it_is_not() {
    for (kind, text, hit) in [
        (
            Kind::Email,
            "write to Ada.Lovelace+x@mail.example.co.uk, please",
            "Ada.Lovelace+x@mail.example.co.uk",
        ),
        (Kind::Email, "<ü.b@müller.example>.", "ü.b@müller.example"),
        (Kind::Phone, "call +49 (0)30 1234-567 today", "+49 (0)30 1234-567"),
        (Kind::Phone, "0049 30 1234567", "0049 30 1234567"),
        (Kind::Phone, "ring (555) 234-5678!", "(555) 234-5678"),
        (Kind::Phone, "555.234.5678", "555.234.5678"),
        (Kind::Card, "card 4111 1111 1111 1111 exp", "4111 1111 1111 1111"),
        (Kind::Card, "378282246310005", "378282246310005"),
        (Kind::Card, "5500-0000-0000-0004", "5500-0000-0000-0004"),
        (Kind::Iban, "to DE89 3704 0044 0532 0130 00.", "DE89 3704 0044 0532 0130 00"),
        (Kind::Iban, "GB29NWBK60161331926819", "GB29NWBK60161331926819"),
        (Kind::Iban, "gb29nwbk60161331926819", "gb29nwbk60161331926819"),
        (Kind::NationalId, "ssn 078-05-1120", "078-05-1120"),
        (Kind::NationalId, "86095742719", "86095742719"),
        (Kind::NationalId, "86 095 742 719", "86 095 742 719"),
        (Kind::NationalId, "2 55 08 14 168 025 38", "2 55 08 14 168 025 38"),
        (Kind::NationalId, "AB 12 34 56 C", "AB 12 34 56 C"),
        (Kind::NationalId, "AB123456C", "AB123456C"),
        (Kind::NationalId, "12345678Z", "12345678Z"),
        (Kind::NationalId, "X1234567L", "X1234567L"),
        (Kind::NationalId, "44051401359", "44051401359"),
        (Kind::Secret, "key AKIAIOSFODNN7EXAMPLE.", "AKIAIOSFODNN7EXAMPLE"),
        (
            Kind::Secret,
            "ghp_0123456789abcdefghijABCDEFGHIJ012345",
            "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        ),
        (Kind::Secret, "mcpg_abcdefghij0123456789", "mcpg_abcdefghij0123456789"),
        (
            Kind::Secret,
            "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl ok",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        ),
    ] {
        assert_eq!(all(text), [(kind, hit.to_owned())], "{text}");
    }
    for text in [
        "a @ b.example",
        "@someone said",
        "user@localhost",
        "a@b.1",
        "x@.com",
        "1.5 @ 2",
        "4111 1111 1111 1112",
        "1111 1111 1111 1111",
        "order 12345678901234567890123456",
        "1 2 3 4 5 6 7 8 9 10 11 12 13",
        "DE88370400440532013000",
        "ZZ89370400440532013000",
        "000-12-3456",
        "666-12-3456",
        "12345678A",
        "GB123456C",
        "2024-11-22T10:30:00Z",
        "192.168.100.200",
        "version 10.20.30.40",
        "86095742710",
        "+1 23",
        "123-456-789",
        "AKIA is a prefix",
        "eyJub3QgYSB0b2tlbg",
        "-----BEGIN CERTIFICATE-----",
        "github_pat_short",
        "total 1,234,567.89",
    ] {
        assert_eq!(all(text), [], "{text}");
    }
    let pem = "-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----";
    let text = json!({ "k": format!("a {pem} b") }).to_string();
    assert_eq!(masked(&text, Kinds::ALL), r#"{"k":"a [secret] b"}"#);
}

#[test]
fn escapes_hide_nothing_and_the_rest_stays_byte_for_byte() {
    for (text, expected) in [
        (r#"{"a":"x \u0061da\u0040mail.example\n","b":1.50e1}"#, r#"{"a":"x [email]\n","b":1.50e1}"#),
        (r#"{ "a" : "4111\u00201111 1111\u0020111\u0031" }"#, r#"{ "a" : "****1111" }"#),
        (r#"["\u0041KIAIOSFODNN7EXAMPLE","\/","\ud83d\ude00a@b.example"]"#, r#"["[secret]","\/","[email]"]"#),
        (r#"{"a@b.example":1,"c@d.example":2}"#, r#"{"[email 1]":1,"[email 2]":2}"#),
        (
            r#"{"n":4111111111111111,"m":-4111111111111111,"o":4111111111111111.0}"#,
            r#"{"n":"****1111","m":-4111111111111111,"o":4111111111111111.0}"#,
        ),
        (r#"{"t":"\"a@b.example\\"}"#, r#"{"t":"\"[email]\\"}"#),
    ] {
        assert_eq!(masked(text, Kinds::ALL), expected, "{text}");
        assert!(serde_json::from_str::<Value>(expected).is_ok());
    }
}

#[test]
fn json_within_a_string_hides_nothing_and_stays_json() {
    let wanted = [
        ("ada@mail.example", "[email]"),
        ("4111111111111111", "****1111"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret]"),
        ("DE89370400440532013000", "[iban]"),
        ("078-05-1120", "[national_id]"),
        ("+49 30 1234567", "[phone]"),
    ];
    for (hit, mask) in wanted {
        for end in ["\n", "\t", "\r", "\"", "\u{8}", "\u{c}", " \\ ", " \u{1f600} "] {
            for depth in 1..4 {
                let nest = |inner: &str| {
                    let inner = json!({ "text": format!("{end}{inner}{end}") });
                    (1..depth).fold(inner, |inner, _| json!({ "text": inner.to_string() })).to_string()
                };
                assert_eq!(masked(&nest(hit), Kinds::ALL), nest(mask), "{hit:?} {end:?} {depth}");
            }
        }
    }
    let key = "-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----";
    let text =
        |inner: &str| json!({ "text": json!({ "key": format!("\n{inner}\n") }).to_string() }).to_string();
    assert_eq!(masked(&text(key), Kinds::ALL), text("[secret]"));
    // Escapes of the inner JSON, which the outer one writes as it does a backslash.
    for (inner, expected) in [
        (r#"{"a":"ada\u0040mail.example"}"#, r#"{"a":"[email]"}"#),
        (r#"{"a":"\ud83d\ude00@mail.example\u00e4 x"}"#, r#"{"a":"[email] x"}"#),
        (r#"{"a":"\u002b49 30 1234567"}"#, r#"{"a":"[phone]"}"#),
        (r#"{"a":"4111\u00a01111\u00a01111\u00a0111\u0031"}"#, r#"{"a":"****1111"}"#),
    ] {
        let (text, expected) = (json!([inner]).to_string(), json!([expected]).to_string());
        assert_eq!(masked(&text, Kinds::ALL), expected);
        let places = look_plain(inner.as_bytes(), Kinds::ALL);
        assert_eq!(
            json!([String::from_utf8(mask(inner.as_bytes(), &places, Kinds::ALL)).unwrap()]).to_string(),
            expected
        );
    }
}

#[test]
fn numbers_have_spaces_of_any_kind_within() {
    for space in [" ", "\t", "\u{a0}", "\u{2007}", "\u{2009}", "\u{202f}", "\u{2011}"] {
        let card = ["4111", "1111", "1111", "1111"].join(space);
        assert_eq!(all(&format!("x {card}\u{a0}y")).len(), 1, "{space:?}");
        // As servers write it that escape nothing beyond ASCII.
        let text = format!("{{\"a\":\"é {card}\"}}");
        assert_eq!(masked(&text, Kinds::of(&[Kind::Card])), "{\"a\":\"é ****1111\"}", "{space:?}");
    }
    assert_eq!(masked("[\"\u{a0}a@b.example\u{a0}\"]", Kinds::ALL), "[\"\u{a0}[email]\u{a0}\"]");
}

#[test]
fn a_sign_makes_no_phone_number_of_a_card() {
    let cards = Kinds::of(&[Kind::Card]);
    for text in ["[\"+4111 1111 1111 1111\"]", "[\"+4111111111111111\"]"] {
        assert_eq!(masked(text, cards), "[\"+****1111\"]");
        assert!(!masked(text, Kinds::ALL).contains("1111 1111"));
    }
    assert_eq!(masked("[\"+49 4111 1111 1111 1111\"]", cards), "[\"+49 ****1111\"]");
    assert_eq!(
        masked("[\"+4222 2222 2222 2\"]", cards),
        "[\"+4222 2222 2222 2\"]",
        "a phone number as a whole"
    );
}

#[test]
fn what_one_kind_covers_is_hidden_by_another_kinds_rule() {
    // A key without an end covers all that follows.
    let text = json!({"a": "-----BEGIN PRIVATE KEY----- x a@b.example 4111 1111 1111 1111 y"}).to_string();
    let places = look(text.as_bytes(), Kinds::ALL, false);
    let kinds: Vec<_> = places.iter().map(|place| place.kind).collect();
    assert_eq!(kinds, [Kind::Secret, Kind::Email, Kind::Card], "each is counted");
    let mask = |kinds: &[Kind]| String::from_utf8(mask(text.as_bytes(), &places, Kinds::of(kinds))).unwrap();
    assert_eq!(
        mask(&[Kind::Email]),
        r#"{"a":"-----BEGIN PRIVATE KEY----- x [email] 4111 1111 1111 1111 y"}"#
    );
    assert_eq!(
        mask(&[Kind::Email, Kind::Card]),
        r#"{"a":"-----BEGIN PRIVATE KEY----- x [email] ****1111 y"}"#
    );
    assert_eq!(mask(&[Kind::Email, Kind::Secret]), r#"{"a":"[secret]"}"#, "one mask for what overlaps");
    let text = r#"["4111 1111 1111 1111@b.example"]"#;
    assert_eq!(masked(text, Kinds::of(&[Kind::Card])), r#"["****1111@b.example"]"#);
    assert_eq!(masked(text, Kinds::ALL), r#"["[email]"]"#);
}

#[test]
fn what_frames_a_message_is_the_clients_own() {
    let text = r#"{"jsonrpc":"2.0","id":"a@b.example","result":{"id":"a@b.example","method":"c@d.example"}}"#;
    let places = look(text.as_bytes(), Kinds::ALL, true);
    let out = String::from_utf8(mask(text.as_bytes(), &places, Kinds::ALL)).unwrap();
    assert_eq!(out, r#"{"jsonrpc":"2.0","id":"a@b.example","result":{"id":"[email]","method":"[email]"}}"#);
    let number = r#"{"id":4111111111111111,"result":[4111111111111111]}"#;
    let places = look(number.as_bytes(), Kinds::ALL, true);
    assert_eq!(places.len(), 1);
}

#[test]
fn time_does_not_grow_faster_than_the_text() {
    for pattern in [
        "a@",
        "1",
        "1 ",
        "4111 ",
        "AA11",
        "+1",
        "eyJ.",
        "-----BEGIN ",
        "\\u0040",
        "\\\"",
        "\\\\",
        "\\\\ud83d",
        "\u{a0}1",
        "1.1.",
        "AB12 ",
        "(((",
    ] {
        let time = |count: usize| {
            let text = format!("\"{}\"", pattern.repeat(count));
            let begun = std::time::Instant::now();
            let places = look(text.as_bytes(), Kinds::ALL, false);
            (begun.elapsed(), places.len())
        };
        let (_, _) = time(1000);
        let (long, _) = time(1_000_000 / pattern.len());
        // A debug build; what is not linear takes minutes.
        assert!(long.as_secs() < 20, "{pattern}: {long:?}");
    }
}

#[test]
fn all_that_is_found_counts_and_no_more_is_kept_than_the_limit() {
    let more = PLACES_MAX + 1000;
    for text in [
        format!("[{}\"\"]", "\"a@b.example\",".repeat(more)),
        format!("[\"{}\"]", "a@b.example ".repeat(more)),
        format!("[\"\\n{}\"]", "a\\u0040b.example ".repeat(more)),
    ] {
        let found = super::look(text.as_bytes(), Kinds::ALL, false);
        assert_eq!((found.places.len(), found.is_cut()), (PLACES_MAX, true));
        assert_eq!(found.count(Kind::Email), u64::try_from(more).unwrap());
        assert_eq!(found.count(Kind::Card), 0);
    }
    let found = super::look(b"[\"a@b.example\", 4111111111111111]", Kinds::ALL, false);
    assert!(!found.is_cut());
    assert_eq!((found.count(Kind::Email), found.count(Kind::Card)), (1, 1));
}

fn naive_luhn(digits: &str) -> bool {
    let mut sum = 0;
    for (at, digit) in digits.chars().rev().enumerate() {
        let mut value = digit.to_digit(10).unwrap();
        if at % 2 == 1 {
            value *= 2;
            if value >= 10 {
                value = value / 10 + value % 10;
            }
        }
        sum += value;
    }
    sum % 10 == 0
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a@b.example".to_owned()),
        Just("4111 1111 1111 1111".to_owned()),
        Just("DE89370400440532013000".to_owned()),
        Just("078-05-1120".to_owned()),
        Just("+49 30 1234567".to_owned()),
        Just("AKIAIOSFODNN7EXAMPLE".to_owned()),
        "[ -~]{0,12}",
        "[0-9 .+-]{0,20}",
        "\\PC{0,6}",
        Just("\n\"\\".to_owned()),
    ]
}

proptest! {
    #[test]
    fn cards_are_those_with_the_check_digit(digits in "4[0-9]{15}") {
        let is_found = all(&digits).iter().any(|(kind, text)| *kind == Kind::Card && *text == digits);
        prop_assert_eq!(is_found, naive_luhn(&digits));
    }

    #[test]
    fn ibans_are_those_with_the_remainder_of_one(body in "[0-9]{18}", check in 0..100_u32) {
        let iban = format!("DE{check:02}{body}");
        let number: u128 = format!("{body}1314{check:02}").parse().unwrap();
        let is_found = all(&iban).iter().any(|(kind, _)| *kind == Kind::Iban);
        prop_assert_eq!(is_found, number % 97 == 1);
    }

    #[test]
    fn masking_changes_nothing_but_the_hits_and_once_is_enough(
        pieces in proptest::collection::vec(piece(), 0..8), escapes in any::<bool>(), nested in any::<bool>()
    ) {
        let content = pieces.join(" ");
        let value = if nested { json!({"a": [{"b": content}], "c": true}) } else { json!({ "a": content }) };
        let mut text = value.to_string();
        if escapes {
            text = text.replace('@', "\\u0040").replace('1', "\\u0031");
        }
        let places = look(text.as_bytes(), Kinds::ALL, false);
        let once = String::from_utf8(mask(text.as_bytes(), &places, Kinds::ALL)).unwrap();
        let read: Value = serde_json::from_str(&once).unwrap();
        // As if the meaning itself had been looked at.
        let mut plain = found::Hits::default();
        find::find(content.as_bytes(), Kinds::ALL, &mut plain);
        let places: Vec<Place> = look_plain(content.as_bytes(), Kinds::ALL);
        prop_assert_eq!(plain.kept.len(), places.len());
        let wanted = String::from_utf8(mask(content.as_bytes(), &places, Kinds::ALL)).unwrap();
        let wanted = if nested { json!({"a": [{"b": wanted}], "c": true}) } else { json!({ "a": wanted }) };
        prop_assert_eq!(&read, &wanted);
        prop_assert_eq!(masked(&once, Kinds::ALL), once);
    }

    #[test]
    fn each_kind_is_found_as_if_it_alone_were_looked_for(
        pieces in proptest::collection::vec(piece(), 0..8), between in "[ ,@+\\n-]{0,2}"
    ) {
        let content = pieces.join(&between);
        let together = look_plain(content.as_bytes(), Kinds::ALL);
        for kind in Kind::ALL {
            let alone = look_plain(content.as_bytes(), Kinds::of(&[kind]));
            let wanted: Vec<_> = together.iter().filter(|place| place.kind == kind).cloned().collect();
            prop_assert_eq!(alone, wanted);
        }
    }

    #[test]
    fn what_is_masked_stays_text(content in "(a@|ü|\\.|😀|1){0,400}") {
        let content = format!("{content}@{content}");
        let places = look_plain(content.as_bytes(), Kinds::ALL);
        prop_assert!(String::from_utf8(mask(content.as_bytes(), &places, Kinds::ALL)).is_ok());
    }

    #[test]
    fn any_bytes_are_looked_at_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for is_message in [false, true] {
            for place in look(&bytes, Kinds::ALL, is_message) {
                prop_assert!(place.range.end <= bytes.len() && place.range.start < place.range.end);
            }
        }
    }
}
