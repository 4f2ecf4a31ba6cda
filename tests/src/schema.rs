//! Records against their published schema, read as somebody would who writes a program for them, and strictly: no field but those that it names.

use std::sync::LazyLock;

use anyhow::ensure;
use jsonschema::Validator;
use serde_json::{Value, json};

const PUBLISHED: &str = include_str!("../../docs/audit-record.schema.json");

/// Of a trail that is read again and again, that many at its end are looked at.
const RECORDS_MAX: usize = 1_000;

static STRICT: LazyLock<Validator> = LazyLock::new(|| {
    let mut schema = serde_json::from_str(PUBLISHED).expect("the published schema is JSON");
    close(&mut schema);
    let root = schema.as_object_mut().expect("the published schema is an object");
    root.remove("additionalProperties");
    root.insert("unevaluatedProperties".into(), false.into());
    jsonschema::draft202012::options().build(&schema).expect("the published schema is one")
});

/// Parts of records have no other fields, either.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(keys) => {
            let kind = keys.get("type");
            if kind.is_some_and(|kind| kind == "object" || kind == &json!(["object", "null"]))
                && keys.contains_key("properties")
            {
                keys.insert("additionalProperties".into(), false.into());
            }
            keys.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

pub fn follows(records: &[Value]) -> anyhow::Result<()> {
    for record in records.iter().rev().take(RECORDS_MAX) {
        let faults: Vec<_> =
            STRICT.iter_errors(record).map(|error| format!("{}: {error}", error.instance_path())).collect();
        ensure!(faults.is_empty(), "not as docs/audit-record.schema.json says: {faults:?} in {record}");
    }
    Ok(())
}
