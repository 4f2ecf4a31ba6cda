//! Which arguments of a tool its definition asks clients to repeat in headers (`x-mcp-header`, 2026-07-28).

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use crate::rpc::{MIRROR_PREFIX, Mirror};

/// The member of a property's schema that names its header.
const ANNOTATION: &str = "x-mcp-header";
/// Members of a schema whose values are data and no schemas.
const DATA: [&str; 5] = ["const", "default", "enum", "example", "examples"];
/// Types whose values fit into a header. The revision has no `number`, but clients and its own test suite do.
const TYPES: [&str; 4] = ["boolean", "integer", "number", "string"];

/// What headers repeat of a tool's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mirrors {
    Known(Arc<[Mirror]>),
    /// Nobody can say: the definition is not known, or breaks the rules for such headers, so that some follow it and others
    /// do not.
    Unclear,
}

impl Default for Mirrors {
    fn default() -> Self {
        Self::Known(Arc::default())
    }
}

/// Reads a canonical definition.
pub(super) fn mirrors(definition: &str) -> Mirrors {
    // Few tools have any. In the canonical form a name has no needless escapes.
    if !definition.contains(ANNOTATION) {
        return Mirrors::default();
    }
    let Ok(tool) = serde_json::from_str::<Value>(definition) else { return Mirrors::Unclear };
    let mut found = Vec::new();
    let schema = tool.get("inputSchema").unwrap_or(&Value::Null);
    if schema.get(ANNOTATION).is_some() || !collect(schema, &mut Vec::new(), true, &mut found) {
        return Mirrors::Unclear;
    }
    let mut names = HashSet::new();
    if !found.iter().all(|mirror| names.insert(&mirror.header)) {
        return Mirrors::Unclear;
    }
    Mirrors::Known(found.into())
}

/// Whether all of them keep the rules. `is_plain`: nothing but `properties` led here.
fn collect(schema: &Value, path: &mut Vec<String>, is_plain: bool, found: &mut Vec<Mirror>) -> bool {
    let members = match schema {
        Value::Object(members) => members,
        Value::Array(items) => return items.iter().all(|item| collect(item, path, false, found)),
        _ => return true,
    };
    if let Some(name) = members.get(ANNOTATION) {
        let name = name.as_str().filter(|name| !name.is_empty() && name.bytes().all(is_token));
        let Some(name) = name.filter(|_| is_plain) else { return false };
        let kind = members.get("type").and_then(Value::as_str);
        found.push(Mirror {
            header: format!("{MIRROR_PREFIX}{}", name.to_ascii_lowercase()),
            path: path.clone(),
            is_required: kind.is_some_and(|kind| TYPES.contains(&kind)),
        });
    }
    members.iter().filter(|(key, _)| !DATA.contains(&key.as_str())).all(|(key, value)| {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.iter().all(|(name, schema)| {
                path.push(name.clone());
                let is_kept = collect(schema, path, is_plain, found);
                path.pop();
                is_kept
            }),
            (_, value) => collect(value, path, false, found),
        }
    })
}

/// What a header's name may have.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(schema: &Value) -> Mirrors {
        mirrors(&json!({"name": "t", "inputSchema": schema}).to_string())
    }

    fn mirror(header: &str, path: &[&str], is_required: bool) -> Mirror {
        let path = path.iter().map(|&key| key.to_owned()).collect();
        Mirror { header: header.to_owned(), path, is_required }
    }

    #[test]
    fn annotations_are_found_along_properties() {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"id": {"type": "integer", "x-mcp-header": "Id"}}},
            "maybe": {"type": ["string", "null"], "x-mcp-header": "Maybe"},
            // No annotation, but a property that is called so.
            "x-mcp-header": {"type": "string"},
            "plain": {"type": "string", "default": {"x-mcp-header": 5}},
        }});
        let expected = [
            mirror("mcp-param-region", &["region"], true),
            mirror("mcp-param-id", &["deep", "id"], true),
            mirror("mcp-param-maybe", &["maybe"], false),
        ];
        assert_eq!(read(&schema), Mirrors::Known(expected.into()));
        assert_eq!(read(&json!({"type": "object"})), Mirrors::default());
        assert_eq!(mirrors(r#"{"description":"x-mcp-header","name":"t"}"#), Mirrors::default());
    }

    #[test]
    fn what_breaks_the_rules_is_unclear() {
        let property = |schema: Value| json!({"properties": {"a": schema}});
        for schema in [
            json!({"x-mcp-header": "Region"}),
            property(json!({"type": "string", "x-mcp-header": ""})),
            property(json!({"type": "string", "x-mcp-header": "A B"})),
            property(json!({"type": "string", "x-mcp-header": "A\r\nB"})),
            property(json!({"type": "string", "x-mcp-header": 5})),
            property(json!({"items": {"type": "string", "x-mcp-header": "A"}})),
            property(json!({"anyOf": [{"type": "string", "x-mcp-header": "A"}]})),
            json!({"$defs": {"a": {"properties": {"b": {"type": "string", "x-mcp-header": "A"}}}}}),
            json!({"properties": {
                "a": {"type": "string", "x-mcp-header": "A"},
                "b": {"type": "string", "x-mcp-header": "a"},
            }}),
        ] {
            assert_eq!(read(&schema), Mirrors::Unclear, "{schema}");
        }
    }
}
