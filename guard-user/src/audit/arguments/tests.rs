use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn digester() -> Digester {
    Digester::new(&[7; KEY_BYTES])
}

fn json(text: &str) -> Json {
    serde_json::from_str::<serde_json::Value>(text).map(|value| from(&value)).unwrap()
}

fn from(value: &serde_json::Value) -> Json {
    match value {
        serde_json::Value::Null => Json::Null,
        serde_json::Value::Bool(value) => Json::Bool(*value),
        serde_json::Value::Number(number) => Json::Number(number.clone()),
        serde_json::Value::String(text) => Json::String(text.clone()),
        serde_json::Value::Array(entries) => Json::Array(entries.iter().map(from).collect()),
        serde_json::Value::Object(members) => {
            Json::Object(members.iter().map(|(name, value)| (name.clone(), from(value))).collect())
        }
    }
}

fn recorded(arguments: &str, in_clear: &[&str]) -> serde_json::Value {
    let paths: Vec<Box<ArgumentPath>> =
        in_clear.iter().map(|path| path.split('.').map(Box::from).collect()).collect();
    serde_json::to_value(digester().arguments(&json(arguments), &paths)).unwrap()
}

#[test]
fn each_value_has_its_digest_by_the_way_to_it_and_what_is_listed_is_in_clear() {
    let recorded = recorded(
        r#"{"to":["a@b.example","c@d.example"],"customer":{"name":"Ada","vip":true},"amount":120.50,"none":[],"note":null}"#,
        &["amount", "customer.vip", "to"],
    );
    let of = |value: &str| digester().value(&json(value));
    let expected = json!([
        {"name": "amount", "digest": of("120.5"), "clear": "120.5"},
        {"name": "customer.name", "digest": of("\"Ada\"")},
        {"name": "customer.vip", "digest": of("true"), "clear": "true"},
        {"name": "none", "digest": of("[]")},
        {"name": "note", "digest": of("null")},
        {"name": "to[0]", "digest": of("\"a@b.example\""), "clear": "\"a@b.example\""},
        {"name": "to[1]", "digest": of("\"c@d.example\""), "clear": "\"c@d.example\""},
    ]);
    let mut values = recorded["values"].as_array().unwrap().clone();
    values.sort_by_key(|value| value["name"].as_str().unwrap().to_owned());
    assert_eq!(serde_json::Value::from(values), expected);
    assert!(recorded["left_off"].is_null());
    assert_eq!(recorded["digest"].as_str().unwrap().len(), DIGITS);
}

#[test]
fn one_number_has_one_digest_however_it_is_written_and_text_is_no_number() {
    let of = |text: &str| digester().value(&json(text));
    for same in [
        ["100", "100.0"],
        ["100", "1e2"],
        ["0", "-0.0"],
        ["0.1", "1e-1"],
        ["1e300", "1.0e300"],
        ["1e16", "10000000000000000"],
    ] {
        assert_eq!(of(same[0]), of(same[1]), "{same:?}");
    }
    for other in [
        "\"100\"",
        "101",
        "100.5",
        "null",
        "true",
        "[]",
        "{}",
        "\"\"",
        "9007199254740993",
        "9007199254740992",
    ] {
        assert_ne!(of("100"), of(other), "{other}");
    }
    assert_ne!(of("9007199254740993"), of("9007199254740992"));
}

#[test]
fn another_key_makes_other_digests_and_has_another_name() {
    let (one, other) = (Digester::new(&[1; KEY_BYTES]), Digester::new(&[2; KEY_BYTES]));
    assert_ne!(one.value(&Json::Bool(true)), other.value(&Json::Bool(true)));
    assert_ne!(one.id(), other.id());
}

#[test]
fn a_call_with_many_or_long_arguments_has_a_bounded_record_that_says_so() {
    let many: Vec<_> = (0..ARGUMENT_VALUES_MAX + 5).collect();
    let recorded_many = recorded(&json!({ "n": many }).to_string(), &["n"]);
    assert_eq!(
        recorded_many["left_off"],
        json!(ARGUMENT_VALUES_MAX / 2 + 5),
        "half of the room is for the rest"
    );
    let recorded_many = recorded(&json!({ "n": many }).to_string(), &[]);
    assert_eq!(recorded_many["left_off"], json!(5));
    assert_eq!(recorded_many["values"].as_array().unwrap().len(), ARGUMENT_VALUES_MAX);
    let long = "\u{7f}".repeat(70_000);
    let names: serde_json::Map<_, _> = (0..40).map(|at| (format!("{at}{long}"), json!(long))).collect();
    let paths: Vec<Box<ArgumentPath>> =
        names.keys().map(|name| vec![Box::from(name.as_str())].into_boxed_slice()).collect();
    let arguments = digester().arguments(&from(&serde_json::Value::Object(names)), &paths);
    let line = text::encode(&arguments).unwrap();
    assert!(arguments.left_off > 0 && !arguments.values.is_empty());
    assert!(line.len() < 3 * ARGUMENTS_BYTES_MAX, "{}", line.len());
    // One more value beyond the bound is still in the digest of all.
    let other: Vec<_> = (0..ARGUMENT_VALUES_MAX + 6).collect();
    assert_ne!(recorded(&json!({ "n": other }).to_string(), &[])["digest"], recorded_many["digest"]);
}

#[test]
fn a_long_name_before_many_values_costs_no_more_than_its_length() {
    let zeros = vec![Json::Number(0.into()); 200_000];
    let arguments = Json::Object(vec![("n".repeat(3_600_000), Json::Array(zeros))]);
    // Built for each value, the names alone would be 720 GB, and this would not end.
    let recorded = digester().arguments(&arguments, &[]);
    assert_eq!(recorded.values.len() + recorded.left_off, 200_000);
}

#[test]
fn what_is_listed_has_its_place_whatever_stands_before_it() {
    let many: Vec<_> = (0..2 * ARGUMENT_VALUES_MAX).collect();
    let arguments = json!({"a": many, "to": "evil@x.example", "n".repeat(300): 1}).to_string();
    let recorded = recorded(&arguments, &["to"]);
    assert_eq!(recorded["values"][0]["clear"], json!("\"evil@x.example\""));
    // And leaves place for the rest.
    let listed: Vec<_> = (0..2 * ARGUMENT_VALUES_MAX).collect();
    let recorded_listed = self::recorded(&json!({"to": listed, "other": 7}).to_string(), &["to"]);
    let names = recorded_listed["values"].as_array().unwrap();
    assert!(names.iter().any(|value| value["name"] == "other"), "{recorded_listed}");
}

#[test]
fn a_key_is_made_once_and_one_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let made = Digester::open(dir.path()).unwrap();
    let path = dir.path().join(DIGEST_KEY_FILE);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Digester::open(dir.path()).unwrap().id(), made.id());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(Digester::open(dir.path()).unwrap_err().to_string().contains("chmod 600"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "short").unwrap();
    // A key that cannot be read is not replaced: what it made would be found no more.
    assert_eq!(Digester::open(dir.path()).unwrap_err().kind(), ErrorKind::InvalidData);
}

/// Any JSON value; numbers are whole.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|value| json!(value)),
        any::<i32>().prop_map(|value| json!(value)),
        "[a-z\\[\\]{}.,:\"0-9]{0,4}".prop_map(|value| json!(value)),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            proptest::collection::btree_map("[a-z.\\[\\]]{0,3}", inner, 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn two_calls_have_one_digest_only_if_they_say_the_same(one in any_json(), other in any_json()) {
        let digest = |value| digester().arguments(&from(value), &[]).digest;
        prop_assert_eq!(digest(&one) == digest(&other), one == other);
    }

    #[test]
    fn nothing_of_a_value_that_is_not_listed_is_in_the_record(word in "[A-Z]{12}") {
        let line = recorded(&json!({"a": {"b": [word]}, "c": 1}).to_string(), &["c", "a.c", "b"]).to_string();
        prop_assert!(!line.contains(&word), "{}", line);
    }
}
