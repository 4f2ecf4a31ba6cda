//! A key that a reader takes and a schema lacks is told by name, and the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value as Json, json};

use super::{Schema, as_json, parsed, words};
use crate::config::{Config, recorded, yaml};
use crate::policy::tests::server;
use crate::policy::{Written, cases, file};

const POLICY: &str = include_str!("../testdata/policy.yaml");
const CASES: &str = include_str!("../testdata/cases.yaml");
const GUARD: &str = include_str!("../testdata/guard.yaml");

/// All schemas below `schema`, itself among them.
fn all<'s>(schema: &'s Json, found: &mut Vec<&'s Json>) {
    match schema {
        Json::Object(members) => {
            found.push(schema);
            members.values().for_each(|inner| all(inner, found));
        }
        Json::Array(items) => items.iter().for_each(|inner| all(inner, found)),
        _ => {}
    }
}

fn keys(schema: &Json) -> BTreeSet<String> {
    schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
}

/// `title` of a schema is what messages call the mapping.
#[test]
fn the_policy_readers_keys_are_those_of_the_schemas() {
    recorded::take();
    let mut document = file::Document::default();
    let problems = file::read(Path::new("policy.yaml"), POLICY, &mut document);
    assert_eq!(problems.or(()).map_err(|problems| problems.to_string()), Ok(()), "the sample must be fine");
    let text = POLICY.replace("[token, process]", "[process]");
    let text = text.replace("    token: {issuer: corp, subject: billing@corp}\n", "");
    let written = Written::from_texts(&[("policy.yaml".into(), text)], &[server("crm")]).unwrap();
    let problems = cases::read_text(Path::new("cases.yaml"), CASES, &written, &mut Vec::new());
    assert_eq!(problems.or(()).map_err(|problems| problems.to_string()), Ok(()), "the sample must be fine");
    let read = recorded::take();

    let (policy, cases) = (parsed(Schema::Policy), parsed(Schema::Cases));
    let mut schemas = Vec::new();
    all(&policy, &mut schemas);
    all(&cases, &mut schemas);
    for (what, (known, present)) in &read.mappings {
        let titled: Vec<_> = schemas.iter().filter(|schema| schema["title"] == **what).collect();
        let [schema] = titled.as_slice() else {
            panic!(
                "policies/schema has {} mappings with the title {what:?}; its keys are {known:?}",
                titled.len()
            )
        };
        assert_eq!(keys(schema), *known, "left: policies/schema, right: the reader, of {what}");
        assert_eq!(present, known, "left: the samples in testdata, right: the reader, of {what}");
    }
    for (what, lists) in &read.choices {
        let of_reader: BTreeSet<_> = lists.clone();
        let mut of_schema = BTreeSet::new();
        for schema in &schemas {
            let Some(property) = schema["properties"].get(what) else { continue };
            let mut below = Vec::new();
            all(property, &mut below);
            let referred: Vec<_> = below
                .iter()
                .filter_map(|schema| policy.pointer(schema.get("$ref")?.as_str()?.strip_prefix('#')?))
                .collect();
            of_schema.extend(below.into_iter().chain(referred).filter_map(words));
        }
        assert!(
            of_reader.is_subset(&of_schema),
            "{what}: the reader knows {of_reader:?}, policies/schema {of_schema:?}"
        );
    }
    every_mapping_in_the_source_was_read(&read.mappings);
}

/// Reads the source, so that a mapping which no sample has does not escape.
fn every_mapping_in_the_source_was_read(read: &BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>) {
    fn sources(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy"), &mut files);
    let mut calls = 0;
    for file in files.iter().filter(|file| !file.components().any(|part| part.as_os_str() == "tests")) {
        let text = std::fs::read_to_string(file).unwrap();
        for call in text.split("reader.fields(").skip(1) {
            let what = call.split('"').nth(1).unwrap();
            assert!(read.contains_key(what), "{}: no sample in testdata has {what:?}", file.display());
            calls += 1;
        }
    }
    assert!(calls >= 13, "{calls}");
}

/// What the reader of guard.yaml says to a key or word that it does not know: its kind, and what it knows.
fn expected(file: &Json) -> Option<(String, BTreeSet<String>)> {
    let said = serde_json::from_value::<Config>(file.clone()).err()?.to_string();
    let kind = ["unknown field", "unknown variant"].into_iter().find(|kind| said.starts_with(kind))?;
    let list = said.split("expected ").nth(1)?;
    let known = list.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((kind.to_owned(), known))
}

/// The schemas that may stand at a place: references followed, alternatives side by side.
fn alternatives<'s>(root: &'s Json, schema: &'s Json) -> Vec<&'s Json> {
    if let Some(place) = schema.get("$ref").and_then(Json::as_str) {
        return alternatives(root, root.pointer(place.strip_prefix('#').unwrap()).unwrap());
    }
    let branches = ["oneOf", "anyOf"].iter().filter_map(|key| schema.get(*key)?.as_array()).flatten();
    let below: Vec<_> = branches.flat_map(|branch| alternatives(root, branch)).collect();
    if below.is_empty() || schema.get("properties").is_some() { vec![schema] } else { below }
}

struct Walk<'s> {
    root: &'s Json,
    file: Json,
    /// By schema: what it knows, and what of that the sample has.
    mappings: BTreeMap<usize, (String, BTreeSet<String>, BTreeSet<String>)>,
    words: usize,
}

impl Walk<'_> {
    fn at(&mut self, pointer: &str, schema: &Json) {
        let value = self.file.pointer(pointer).unwrap().clone();
        let schemas: Vec<Json> = alternatives(self.root, schema).into_iter().cloned().collect();
        let known: BTreeSet<String> = schemas.iter().flat_map(keys).collect();
        let named: BTreeSet<String> = schemas.iter().filter_map(words).flatten().collect();
        match &value {
            Json::Object(members) => {
                let (kind, of_reader) = self.reader_at(pointer, json!({"zzz": null}));
                let of_schema =
                    if kind == "unknown variant" { known.union(&named).cloned().collect() } else { known };
                assert_eq!(
                    of_schema, of_reader,
                    "left: policies/schema/guard.json, right: the reader, at {pointer:?}"
                );
                let title =
                    schemas.iter().find_map(|schema| schema["title"].as_str()).unwrap_or_default().to_owned();
                let entry =
                    self.mappings.entry(fnv(&title)).or_insert_with(|| (title, of_reader, BTreeSet::new()));
                entry.2.extend(members.keys().cloned());
                for key in members.keys() {
                    let property = schemas.iter().find_map(|schema| schema["properties"].get(key)).unwrap();
                    self.at(&format!("{pointer}/{key}"), property);
                }
            }
            Json::Array(items) => {
                let item = schemas.iter().find_map(|schema| schema.get("items")).unwrap();
                for index in 0..items.len() {
                    self.at(&format!("{pointer}/{index}"), item);
                }
            }
            Json::String(_) => {
                let mut file = self.file.clone();
                *file.pointer_mut(pointer).unwrap() = "zzz".into();
                if let Some((_, of_reader)) = expected(&file) {
                    let of_schema = if named.contains("host") {
                        named.union(&of_reader).cloned().collect()
                    } else {
                        named
                    };
                    assert_eq!(
                        of_schema, of_reader,
                        "left: policies/schema/guard.json, right: the reader, at {pointer:?}"
                    );
                    self.words += 1;
                } else {
                    assert_eq!(named, BTreeSet::new(), "the reader takes any text at {pointer:?}");
                }
            }
            _ => {}
        }
    }

    fn reader_at(&self, pointer: &str, unknown: Json) -> (String, BTreeSet<String>) {
        let mut file = self.file.clone();
        *file.pointer_mut(pointer).unwrap() = unknown;
        expected(&file)
            .unwrap_or_else(|| panic!("the reader does not tell which keys it knows at {pointer:?}"))
    }
}

/// A title's key in a map.
fn fnv(text: &str) -> usize {
    text.bytes().fold(14_695_981_039_346_656_037, |hash: usize, byte| {
        (hash ^ usize::from(byte)).wrapping_mul(1_099_511_628_211)
    })
}

#[test]
fn the_keys_and_words_of_guard_yaml_are_those_of_its_schema() {
    yaml::read::<Config>(Path::new("guard.yaml"), GUARD).unwrap();
    let root = parsed(Schema::Guard);
    let file = as_json(GUARD).unwrap();
    let mut walk = Walk { root: &root, file, mappings: BTreeMap::new(), words: 0 };
    walk.at("", &root);
    for (title, known, mut present) in walk.mappings.into_values() {
        // `in: host` is a word and no key.
        if known.contains("netns") {
            present.insert("host".into());
        }
        assert_eq!(present, known, "left: testdata/guard.yaml, right: the reader, of {title:?}");
    }
    assert!(walk.words >= 14, "{}", walk.words);
}

#[test]
fn the_defaults_of_guard_yaml_are_those_of_its_schema() {
    /// What stands in `file` and was not written must be the default in `schema`.
    fn compare(
        pointer: &str,
        (root, schema): (&Json, &Json),
        written: &Json,
        whole: &Json,
        seen: &mut usize,
    ) {
        match whole {
            Json::Object(members) => {
                for (key, value) in members {
                    let schemas = alternatives(root, schema);
                    let property = schemas.iter().find_map(|schema| schema["properties"].get(key));
                    let property = property.unwrap_or_else(|| panic!("{pointer}/{key} is not in the schema"));
                    let place = format!("{pointer}/{key}");
                    match written.get(key) {
                        Some(written) => compare(&place, (root, property), written, value, seen),
                        None if value.is_object() => {
                            compare(&place, (root, property), &Json::Null, value, seen);
                        }
                        None if value.is_null() => assert_eq!(property.get("default"), None, "{place}"),
                        None => {
                            assert_eq!(property.get("default"), Some(value), "{place}");
                            *seen += 1;
                        }
                    }
                }
            }
            Json::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    let schemas = alternatives(root, schema);
                    let item = schemas.iter().find_map(|schema| schema.get("items")).unwrap();
                    compare(&format!("{pointer}/{index}"), (root, item), &written[index], value, seen);
                }
            }
            _ => {}
        }
    }
    let text = "servers: [{name: a, port: 1, egress: {}}]\nissuers: [{name: a, issuer: b, audience: c, keys: {jwks_file: d}}]";
    let config: Config = yaml::read(Path::new("guard.yaml"), text).unwrap();
    let root = parsed(Schema::Guard);
    let mut seen = 0;
    compare("", (&root, &root), &as_json(text).unwrap(), &serde_json::to_value(&config).unwrap(), &mut seen);
    assert!(seen >= 70, "{seen}");
}
