use proptest::prelude::*;

use super::*;

fn kind(text: &[u8]) -> JsonErrorKind {
    parse(text, 64).unwrap_err().kind
}

fn nested(levels: usize) -> String {
    "[".repeat(levels) + &"]".repeat(levels)
}

#[test]
fn what_parsers_read_differently_is_refused() {
    assert_eq!(kind(b"\xef\xbb\xbf{}"), JsonErrorKind::ByteOrderMark);
    assert_eq!(kind(b"\xff\xfe{\0}\0"), JsonErrorKind::ByteOrderMark);
    assert_eq!(kind(br#"{"a":1,"a":1}"#), JsonErrorKind::DuplicateKey);
    assert_eq!(kind(br#"{"name":1,"n\u0061me":2}"#), JsonErrorKind::DuplicateKey);
    assert_eq!(kind(b"\"\xc0\xaf\""), JsonErrorKind::NotUtf8);
    for text in [
        &b"{\0}\0"[..],
        br#""\ud800""#,
        br#""\udc00\ud800""#,
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b"01",
        b"[1,]",
        b"{} {}",
        b"{}\0",
        b"",
        b"\"\x00\"",
        b"// c\n1",
        b"'a'",
        b"\x0c1",
    ] {
        assert!(matches!(kind(text), JsonErrorKind::Syntax(_)), "{:?}", text.escape_ascii().to_string());
    }
}

#[test]
fn depth_is_counted_in_arrays_and_objects() {
    assert!(parse(nested(64).as_bytes(), 64).is_ok());
    assert_eq!(parse(nested(65).as_bytes(), 64).unwrap_err().kind, JsonErrorKind::TooDeep);
    assert!(parse(nested(DEPTH_MAX).as_bytes(), usize::MAX).is_ok());
    assert_eq!(parse(nested(DEPTH_MAX + 1).as_bytes(), usize::MAX).unwrap_err().kind, JsonErrorKind::TooDeep);
    assert_eq!(parse(nested(100_000).as_bytes(), usize::MAX).unwrap_err().kind, JsonErrorKind::TooDeep);
    assert_eq!(parse(br#"{"a":{}}"#, 1).unwrap_err().kind, JsonErrorKind::TooDeep);
}

#[test]
fn the_number_of_values_is_bounded() {
    let list = |count: usize| format!("[{}]", vec!["0"; count].join(","));
    assert!(parse(list(VALUES_MAX - 1).as_bytes(), 64).is_ok());
    assert_eq!(kind(list(VALUES_MAX).as_bytes()), JsonErrorKind::TooManyValues);
}

#[test]
fn the_offset_points_at_the_fault() {
    let text = b"{\n  \"a\": 1,\n  \"a\": 2\n}";
    let offset = parse(text, 64).unwrap_err().offset;
    assert!((14..=18).contains(&offset), "{offset}");
    assert_eq!(parse(b"\"ab\xff\"", 64).unwrap_err().offset, 3);
    assert_eq!(
        parse(b"[1", 64).unwrap_err().to_string(),
        "not valid JSON: EOF while parsing a list (near byte 1)"
    );
}

#[test]
fn numbers_keep_their_kind_and_large_integers_are_taken() {
    assert_eq!(parse(b"9007199254740993", 1).unwrap(), Json::Number(9_007_199_254_740_993_u64.into()));
    assert!(matches!(parse(b"1.0", 1).unwrap(), Json::Number(n) if n.is_f64()));
    assert!(matches!(parse(b"1e3", 1).unwrap(), Json::Number(n) if n.is_f64()));
    assert!(matches!(parse(b"123456789012345678901234567890", 1).unwrap(), Json::Number(n) if n.is_f64()));
    assert!(matches!(parse(b"-0", 1).unwrap(), Json::Number(n) if n.is_f64()));
}

#[test]
fn a_lookalike_beside_a_key_shows() {
    let object = parse(br#"{"amount":1,"Amount":5000,"note":""}"#, 2).unwrap();
    assert!(object.has_lookalike("amount") && !object.has_lookalike("note"));
    assert!(!Json::Null.has_lookalike("amount"));
}

impl From<&Json> for serde_json::Value {
    fn from(json: &Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => Self::Number(number.clone()),
            Json::String(text) => Self::String(text.clone()),
            Json::Array(items) => Self::Array(items.iter().map(Self::from).collect()),
            Json::Object(members) => {
                members.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect()
            }
        }
    }
}

/// Values with unique keys, as `serde_json` writes them.
fn any_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        (-1e300..1e300_f64).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 64, 24, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..24).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..24)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_serde_json_writes_is_read_back_the_same(value in any_value()) {
        let text = serde_json::to_vec(&value).unwrap();
        let read = parse(&text, 64).unwrap();
        prop_assert_eq!(serde_json::Value::from(&read), value);
    }

    #[test]
    fn no_bytes_make_it_panic_or_take_what_serde_json_refuses(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let strict = parse(&bytes, 64).is_ok();
        prop_assert!(!strict || serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
    }

    #[test]
    fn a_duplicate_key_is_found_anywhere(
        keys in prop::collection::btree_set("[a-z]{1,6}", 1..60),
        twice in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        around in 0_usize..20,
    ) {
        let mut keys: Vec<String> = keys.into_iter().map(|key| format!("\"{key}\":0")).collect();
        // The second one is written with an escape: the comparison must be after unescaping.
        let key = keys[twice.index(keys.len())].clone();
        let escaped = format!("\"\\u{:04x}{}", u32::from(key.as_bytes()[1]), &key[2..]);
        let clean = format!("{}{{{}}}{}", "[".repeat(around), keys.join(","), "]".repeat(around));
        prop_assert!(parse(clean.as_bytes(), 64).is_ok());
        keys.insert(at.index(keys.len() + 1), escaped);
        let text = format!("{}{{{}}}{}", "[".repeat(around), keys.join(","), "]".repeat(around));
        prop_assert_eq!(kind(text.as_bytes()), JsonErrorKind::DuplicateKey);
    }
}
