//! The schemas say what the readers accept: every key and every word, and no other.

mod drift;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value as Json;

use super::Schema;
use crate::config::Overrides;
use crate::config::yaml::{self, Node, Value};
use crate::policy::tests::policy;

const AGENTS: &str = include_str!("../../../../policies/examples/customer-ops/policies/agents.yaml");

/// A file's text as a JSON reader would see it.
pub(super) fn as_json(text: &str) -> Option<Json> {
    fn value(node: &Node) -> Json {
        match &node.value {
            Value::Null => Json::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => number.clone().into(),
            Value::Text(text) => text.clone().into(),
            Value::List(items) => items.iter().map(value).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|(key, node)| {
                    let key = value(key);
                    (key.as_str().map_or_else(|| key.to_string(), str::to_owned), value(node))
                })
                .collect(),
        }
    }
    yaml::nodes(Path::new("a.yaml"), text).ok().map(|node| value(&node))
}

pub(super) fn parsed(schema: Schema) -> Json {
    serde_json::from_str(schema.text()).unwrap()
}

fn validator(schema: Schema) -> jsonschema::Validator {
    jsonschema::draft202012::options().build(&parsed(schema)).unwrap()
}

/// What the schema has against a file; nothing if it takes it.
fn faults(schema: Schema, text: &str) -> Vec<String> {
    let Some(file) = as_json(text) else { return vec!["it is no YAML for the guard".into()] };
    validator(schema).iter_errors(&file).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn each_schema_is_valid_and_of_the_2020_12_draft() {
    for schema in [Schema::Guard, Schema::Policy, Schema::Cases] {
        let text = parsed(schema);
        assert_eq!(text["$schema"], "https://json-schema.org/draft/2020-12/schema");
        jsonschema::draft202012::meta::validate(&text).unwrap();
    }
}

#[test]
fn shipped_files_fit_their_schemas() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (schema, file) in [
        (Schema::Policy, "policies/default.yaml"),
        (Schema::Guard, "policies/examples/customer-ops/guard.yaml"),
        (Schema::Policy, "policies/examples/customer-ops/policies/seed.yaml"),
        (Schema::Policy, "policies/examples/customer-ops/policies/agents.yaml"),
        (Schema::Cases, "policies/examples/customer-ops/policies/tests/seed.yaml"),
        (Schema::Policy, "tests/src/bin/bench-cells/bench.yaml"),
        (Schema::Guard, "guard-user/src/policy/schema/testdata/guard.yaml"),
        (Schema::Policy, "guard-user/src/policy/schema/testdata/policy.yaml"),
        (Schema::Cases, "guard-user/src/policy/schema/testdata/cases.yaml"),
    ] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        assert_eq!(faults(schema, &text), Vec::<String>::new(), "{file}");
    }
}

/// Mistakes of the golden files that are no matter of shape: what names refer to, what fits together, what is ambiguous. A line is a
/// file's name and a case's title; `BLESS=1` writes those that the schemas do not see.
#[test]
fn what_the_schemas_do_not_see_is_listed() {
    let list = "src/policy/schema/testdata/semantic.txt";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut unseen = String::new();
    let (mut all, mut seen) = (0, 0);
    for (schema, file) in [
        (Schema::Guard, "src/config/testdata/mistakes.txt"),
        (Schema::Policy, "src/policy/testdata/mistakes.txt"),
        (Schema::Cases, "src/policy/testdata/case-mistakes.txt"),
    ] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let validator = validator(schema);
        for case in text.split("=== ").skip(1) {
            let (title, rest) = case.split_once('\n').unwrap();
            let (text, _) = rest.split_once("\n---\n").unwrap();
            all += 1;
            if as_json(text).is_some_and(|file| validator.is_valid(&file)) {
                writeln!(unseen, "{file}: {title}").unwrap();
            } else {
                seen += 1;
            }
        }
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(root.join(list), &unseen).unwrap();
    }
    assert_eq!(std::fs::read_to_string(root.join(list)).unwrap(), unseen, "BLESS=1 writes {list}");
    assert!(seen * 2 > all, "the schemas see {seen} of {all} mistakes");
}

#[test]
fn what_the_schemas_refuse_the_readers_refuse() {
    let accepts_policy = |text: &str| policy(&[("agents.yaml", AGENTS), ("case.yaml", text)]).is_ok();
    let accepts_guard = |text: &str| Overrides::default().load_text(Path::new("/g/guard.yaml"), text).is_ok();
    // Each is a change of a file that is fine.
    for (from, to) in [
        ("decision: allow", "decision: permit"),
        ("agents: [lookup-agent]", "agents: lookup-agent"),
        ("max_recipients: 10", "max_recipients: ten"),
        ("window: 60s", "window: 60"),
        ("exceeded_action: deny", "exceeded_action: drop"),
        ("max_calls: 100", "max_calls: 0"),
    ] {
        let fine = "policies:\n  - intent: comms.email.send\n    agents: [lookup-agent]\n    decision: allow\n    \
                    conditions: {max_recipients: 10}\nvelocity_rules:\n  - {agent: lookup-agent, window: 60s, max_calls: 100, exceeded_action: deny}\n";
        assert!(fine.contains(from) && accepts_policy(fine));
        assert_eq!(faults(Schema::Policy, fine), Vec::<String>::new());
        let wrong = fine.replace(from, to);
        assert!(!accepts_policy(&wrong) && !faults(Schema::Policy, &wrong).is_empty(), "{to}");
    }
    for (from, to) in
        [("port: 3001", "port: 0"), ("path: /mcp", "path: mcp"), ("batches: split", "batches: join")]
    {
        let fine = "servers: [{name: a, port: 3001, path: /mcp, batches: split}]";
        assert!(fine.contains(from) && accepts_guard(fine));
        assert_eq!(faults(Schema::Guard, fine), Vec::<String>::new());
        let wrong = fine.replace(from, to);
        assert!(!accepts_guard(&wrong) && !faults(Schema::Guard, &wrong).is_empty(), "{to}");
    }
}

#[test]
fn every_key_is_described_and_has_a_type() {
    fn look(path: &str, schema: &Json, seen: &mut usize) {
        let Json::Object(members) = schema else { return };
        for (key, property) in members.get("properties").and_then(Json::as_object).into_iter().flatten() {
            // A part of a condition on the shape, such as `if`.
            if !path.contains("/if/") && !path.contains("/then/") {
                let has = |name: &str| property.get(name).is_some();
                assert!(has("description"), "{path}{key} has no description");
                assert!(
                    ["type", "$ref", "oneOf", "anyOf"].iter().any(|name| has(name)),
                    "{path}{key} has no type"
                );
                *seen += 1;
            }
        }
        for (key, value) in members {
            match value {
                Json::Array(items) => {
                    for item in items {
                        look(&format!("{path}{key}/"), item, seen);
                    }
                }
                value => look(&format!("{path}{key}/"), value, seen),
            }
        }
    }
    let mut seen = 0;
    for schema in [Schema::Guard, Schema::Policy, Schema::Cases] {
        look("/", &parsed(schema), &mut seen);
    }
    assert!(seen > 150, "{seen}");
}

/// The words of an enum.
pub(super) fn words(schema: &Json) -> Option<BTreeSet<String>> {
    let words = schema.get("enum")?.as_array()?;
    words.iter().map(|word| word.as_str().map(str::to_owned)).collect()
}

#[test]
fn an_unknown_key_is_refused_everywhere() {
    for (schema, text) in [
        (Schema::Policy, "agents: {a: {client_id: a, clientid: b}}"),
        (Schema::Policy, "rules: []"),
        (Schema::Guard, "servers: [{name: a, port: 1, prot: 2}]"),
        (Schema::Cases, "cases: [{name: a, agent: a, server: a, tool: t, expect: deny, expct: deny}]"),
    ] {
        assert!(!faults(schema, text).is_empty(), "{text}");
    }
}
