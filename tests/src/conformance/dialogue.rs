//! Tools that talk while they run: log messages, progress, and requests to the client (only in the session era;
//! later, a tool answers "input required" instead, see `rounds`).
#![expect(deprecated, reason = "logging and sampling are deprecated in the protocol and still in use")]

use std::time::Duration;

use rmcp::ErrorData;
use rmcp::RoleServer;
use rmcp::model::{
    CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock, CreateMessageRequestParams,
    ElicitRequestParams, InputRequiredResult, JsonObject, LoggingLevel, LoggingMessageNotificationParam,
    ProgressNotificationParam, SamplingCapability, SamplingMessage,
};
use rmcp::service::RequestContext;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::handler::is_modern;
use super::{bad_arguments, rounds, text};

/// Between two messages of one call, so that a client can be seen to get them one by one.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn logging(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    log(context, "Tool execution started").await;
    sleep(PAUSE).await;
    log(context, "Tool processing data").await;
    sleep(PAUSE).await;
    log(context, "Tool execution completed").await;
    Ok(text("Tool with logging executed successfully"))
}

pub(super) async fn one_log(context: &RequestContext<RoleServer>) -> CallToolResult {
    log(context, "One message").await;
    text("Logging tool executed")
}

/// A stateless request gets log messages only if it names a level.
async fn log(context: &RequestContext<RoleServer>, message: &str) {
    if is_modern(context) && context.meta.log_level().is_none() {
        return;
    }
    let message = LoggingMessageNotificationParam::new(LoggingLevel::Info, json!(message));
    // A client that has gone does not need the message.
    let _ = context.peer.notify_logging_message(message).await;
}

pub(super) async fn progress(context: &RequestContext<RoleServer>) -> CallToolResult {
    let token = context.meta.get_progress_token();
    for (index, progress) in [0.0, 50.0, 100.0].into_iter().enumerate() {
        if index > 0 {
            sleep(PAUSE).await;
        }
        if let Some(token) = &token {
            let step = ProgressNotificationParam::new(token.clone(), progress).with_total(100.0);
            let _ = context.peer.notify_progress(step).await;
        }
    }
    text("Tool with progress executed successfully")
}

pub(super) async fn sampling(
    arguments: &JsonObject,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResult, ErrorData> {
    let prompt = string(arguments, "prompt")?;
    let ask = CreateMessageRequestParams::new(vec![SamplingMessage::user_text(prompt)], 100);
    match context.peer.create_message(ask).await {
        Ok(reply) => {
            let said = reply.message.content.iter().find_map(|block| block.as_text());
            let said = said.map_or("no text", |block| block.text.as_str());
            Ok(text(format!("LLM response: {said}")))
        }
        Err(error) => Ok(refused("sampling", &error)),
    }
}

pub(super) async fn elicitation(
    arguments: &JsonObject,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResult, ErrorData> {
    let schema = json!({
        "type": "object",
        "properties": {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        },
        "required": ["username", "email"],
    });
    let reply = ask_user(context, string(arguments, "message")?, schema).await?;
    Ok(reply.map_or_else(|refusal| refusal, |said| text(format!("User response: {said}"))))
}

pub(super) async fn defaults(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "default": "John Doe"},
            "age": {"type": "integer", "default": 30},
            "score": {"type": "number", "default": 95.5},
            "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
            "verified": {"type": "boolean", "default": true},
        },
        "required": [],
    });
    Ok(completed(ask_user(context, "Please review the defaults", schema).await?))
}

pub(super) async fn choices(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    let titled = |word: &str| {
        json!([
            {"const": "value1", "title": format!("First {word}")},
            {"const": "value2", "title": format!("Second {word}")},
            {"const": "value3", "title": format!("Third {word}")},
        ])
    };
    let options = json!(["option1", "option2", "option3"]);
    let schema = json!({
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": options},
            "titledSingle": {"type": "string", "oneOf": titled("Option")},
            "legacyEnum": {
                "type": "string",
                "enum": ["opt1", "opt2", "opt3"],
                "enumNames": ["Option One", "Option Two", "Option Three"],
            },
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled("Choice")}},
        },
        "required": [],
    });
    Ok(completed(ask_user(context, "Please choose", schema).await?))
}

/// In both eras: a progress message, then a question to the user by the way of the era.
pub(super) async fn streaming_elicitation(
    answers: Option<&Value>,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResponse, ErrorData> {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
    if !is_modern(context) {
        return Ok(completed(ask_user(context, "Name?", schema).await?).into());
    }
    if let Some(answer) = answers {
        return Ok(text(format!("Elicitation completed: {answer}")).into());
    }
    if let Some(token) = context.meta.get_progress_token() {
        let _ = context.peer.notify_progress(ProgressNotificationParam::new(token, 1.0)).await;
    }
    let asks = [("name".to_owned(), rounds::elicit("Name?", &schema)?)].into();
    Ok(InputRequiredResult::from_input_requests(asks).into())
}

pub(super) fn missing_capability(context: &RequestContext<RoleServer>) -> Result<CallToolResult, ErrorData> {
    if context.client_capabilities().is_some_and(|declared| declared.sampling.is_some()) {
        return Ok(text("The client can sample"));
    }
    let mut required = ClientCapabilities::default();
    required.sampling = Some(SamplingCapability::default());
    Err(ErrorData::missing_required_client_capability(required))
}

/// The user's answer as JSON, or the tool result that says why there is none.
async fn ask_user(
    context: &RequestContext<RoleServer>,
    message: &str,
    schema: Value,
) -> Result<Result<String, CallToolResult>, ErrorData> {
    let ask: ElicitRequestParams =
        serde_json::from_value(json!({"mode": "form", "message": message, "requestedSchema": schema}))
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    Ok(match context.peer.create_elicitation(ask).await {
        Ok(reply) => {
            let action = serde_json::to_value(&reply.action).unwrap_or_default();
            let filled_in = reply.content.unwrap_or_else(|| json!({}));
            Ok(format!("action={}, content={filled_in}", action.as_str().unwrap_or("unknown")))
        }
        Err(error) => Err(refused("elicitation", &error)),
    })
}

fn completed(reply: Result<String, CallToolResult>) -> CallToolResult {
    reply.map_or_else(|refusal| refusal, |said| text(format!("Elicitation completed: {said}")))
}

fn refused(what: &str, error: &rmcp::ServiceError) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(format!("the client did not answer the {what}: {error}"))])
}

fn string<'a>(arguments: &'a JsonObject, name: &str) -> Result<&'a str, ErrorData> {
    let value = arguments.get(name).and_then(Value::as_str);
    value.ok_or_else(|| bad_arguments(&format!("the argument {name:?} must be a string")))
}
