//! What operators see of the pins, as data.

use serde_json::{Value, json};

use super::pins::{Definition, Offer, Pins, Standing, Tool, What};
use crate::types::ServerName;

/// How each tool of a server stands. `with_definitions`: and what is pinned and offered.
pub fn told(server: &ServerName, pins: &Pins, with_definitions: bool) -> Value {
    let tools: Vec<Value> =
        pins.tools().map(|(name, tool)| told_tool(name, tool, with_definitions)).collect();
    json!({ "server": server, "tools": tools })
}

fn told_tool(name: &str, tool: &Tool, with_definitions: bool) -> Value {
    let pinned = tool.pinned.as_ref();
    let mut told = json!({
        "name": name,
        "state": tool.standing(),
        "first_seen": tool.first_seen,
        "pinned": pinned.map(|pin| {
            let mut told = definition(&pin.definition, with_definitions);
            told["since"] = json!(pin.since);
            told["by"] = json!(pin.by);
            told
        }),
        "offered": tool.offered.as_ref().map(|Offer { what, since }| {
            let mut told = match what {
                What::Definition(offered) => definition(offered, with_definitions),
                What::Unclear(unclear) => json!({ "unclear": unclear, "text": unclear.to_string() }),
            };
            told["since"] = json!(since);
            told
        }),
    });
    if tool.standing() == Standing::New && tool.unclear().is_some() {
        told["state"] = "unreadable".into();
    }
    told
}

fn definition(definition: &Definition, with_text: bool) -> Value {
    let Definition { digest, text, findings } = definition;
    let mut told = json!({ "digest": digest, "findings": findings });
    if with_text {
        told["definition"] = json!(text);
    }
    told
}
