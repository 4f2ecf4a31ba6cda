//! The fixture's tools, as `tools/list` shows them.

use std::sync::{Arc, LazyLock};

use rmcp::model::{JsonObject, Tool};
use serde_json::{Value, json};

/// All tools, in the order of the list.
pub fn tools() -> &'static [Tool] {
    static TOOLS: LazyLock<Vec<Tool>> = LazyLock::new(|| [plain(), dialogue(), rounds(), tasks()].concat());
    &TOOLS
}

fn tool(name: &'static str, description: &'static str, schema: Value) -> Tool {
    let Value::Object(schema) = schema else { unreachable!("schemas are written as objects") };
    Tool::new(name, description, Arc::<JsonObject>::new(schema))
}

fn bare(name: &'static str, description: &'static str) -> Tool {
    tool(name, description, json!({"type": "object", "properties": {}}))
}

fn with_text(name: &'static str, description: &'static str, argument: &str) -> Tool {
    let schema =
        json!({"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]});
    tool(name, description, schema)
}

fn plain() -> Vec<Tool> {
    vec![
        bare("test_simple_text", "Answers one text"),
        bare("test_image_content", "Answers a PNG image"),
        bare("test_audio_content", "Answers a WAV sound"),
        bare("test_embedded_resource", "Answers an embedded text resource"),
        bare("test_multiple_content_types", "Answers a text, an image and a resource"),
        bare("test_error_handling", "Always fails, as a tool result"),
        tool(
            "json_schema_2020_12_tool",
            "Has an input schema in the JSON Schema dialect of 2020-12",
            dialect(),
        ),
        tool(
            "test_custom_header",
            "Wants its region in a request header as well",
            json!({
                "type": "object",
                "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
                "required": ["region"],
            }),
        ),
    ]
}

fn dialect() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {
            "address": {
                "$anchor": "addressDef",
                "type": "object",
                "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            },
        },
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": false,
    })
}

fn dialogue() -> Vec<Tool> {
    vec![
        bare("test_tool_with_logging", "Sends three log messages while it runs"),
        bare("test_logging_tool", "Sends a log message if the request asks for a level"),
        bare("test_tool_with_progress", "Reports progress 0, 50 and 100"),
        with_text("test_sampling", "Asks the client's model", "prompt"),
        with_text("test_elicitation", "Asks the user for a name and an address", "message"),
        bare("test_elicitation_sep1034_defaults", "Asks with a default value of every primitive type"),
        bare("test_elicitation_sep1330_enums", "Asks with every form of choice"),
        bare("test_streaming_elicitation", "Asks the user on the stream of the call"),
        bare("test_missing_capability", "Needs a client that can sample"),
        bare("test_reconnection", "Answers after its stream was closed, to be picked up by reconnecting"),
        bare("test_trigger_tool_change", "Announces that the list of tools changed"),
        bare("test_trigger_prompt_change", "Announces that the list of prompts changed"),
    ]
}

fn rounds() -> Vec<Tool> {
    vec![
        bare("test_input_required_result_elicitation", "Needs the user's name first"),
        bare("test_input_required_result_sampling", "Needs an answer of the client's model first"),
        bare("test_input_required_result_list_roots", "Needs the client's roots first"),
        bare("test_input_required_result_request_state", "Needs a confirmation and its state back"),
        bare("test_input_required_result_multiple_inputs", "Needs three inputs at once"),
        bare("test_input_required_result_multi_round", "Needs two inputs, one after the other"),
        bare("test_input_required_result_tampered_state", "Refuses a state that it did not make"),
        bare("test_input_required_result_capabilities", "Asks only for what the client declared"),
    ]
}

fn tasks() -> Vec<Tool> {
    vec![
        with_text("greet", "Greets at once, never as a task", "name"),
        tool(
            "slow_compute",
            "Sleeps, then answers; a task where the client takes tasks",
            json!({
                "type": "object",
                "properties": {"seconds": {"type": "number"}, "label": {"type": "string"}},
                "required": ["seconds"],
            }),
        ),
        bare("failing_job", "A task that ends with a tool error"),
        bare("protocol_error_job", "A task that ends with a protocol error"),
        with_text("confirm_delete", "A task that needs one confirmation", "filename"),
        bare("multi_input", "A task that needs two inputs at once"),
        bare("test_tool_with_task", "Asks for a name, then becomes a task"),
    ]
}
