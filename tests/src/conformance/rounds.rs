//! Tools that take several rounds: "input required", then the same call again with the client's answers.

use std::collections::BTreeMap;

use rmcp::ErrorData;
use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, InputRequest, InputRequests, InputRequiredResult,
    RequestStateCodec,
};
use rmcp::service::RequestContext;
use serde_json::{Value, json};

use super::text;

/// Seals the state that goes through the client, so that a changed one is refused.
#[derive(Clone)]
pub(super) struct Seal(RequestStateCodec);

impl Default for Seal {
    fn default() -> Self {
        // A fixture keeps no secrets; the key only has to be the same for all requests of a run.
        let key = *b"fixture key of the test server!!";
        Self(RequestStateCodec::try_new(key).expect("the key is long enough"))
    }
}

impl Seal {
    fn seal(&self, round: &str) -> String {
        self.0.seal(round.as_bytes())
    }

    fn open(&self, state: Option<&str>) -> Result<Option<String>, ErrorData> {
        let Some(state) = state else { return Ok(None) };
        let opened = self.0.open(state).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        opened.map(Some).ok_or_else(|| ErrorData::invalid_params("the request state is not ours", None))
    }
}

/// Answers for the `test_input_required_result_*` tools; `None` for any other name.
pub(super) fn call(
    seal: &Seal,
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Option<Result<CallToolResponse, ErrorData>> {
    let name = request.name.strip_prefix("test_input_required_result_")?;
    Some(round(name, seal, request, context)?.map(|reply| match reply {
        Reply::Done(said) => text(said).into(),
        Reply::Ask(asks, None) => InputRequiredResult::from_input_requests(asks).into(),
        Reply::Ask(asks, Some(state)) => InputRequiredResult::new(Some(asks), Some(seal.seal(state))).into(),
    }))
}

enum Reply {
    Done(String),
    /// Questions, and the name of the round to come back with.
    Ask(InputRequests, Option<&'static str>),
}

fn round(
    name: &str,
    seal: &Seal,
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Option<Result<Reply, ErrorData>> {
    let answers = request.input_responses.as_ref();
    let state = match seal.open(request.request_state.as_deref()) {
        Ok(state) => state,
        Err(error) => return Some(Err(error)),
    };
    Some(match name {
        "elicitation" => match field(answers, "user_name", "name") {
            Some(user) => Ok(Reply::Done(format!("Hello, {user}!"))),
            None => one("user_name", elicit("What is your name?", &required("name", "string")), None),
        },
        "sampling" => match answers.and_then(|all| all.get("capital_question")) {
            Some(answer) => Ok(Reply::Done(format!("Sampled: {}", answer["content"]))),
            None => one("capital_question", sample("What is the capital of France?", 100), None),
        },
        "list_roots" => match answers.and_then(|all| all.get("client_roots")) {
            Some(answer) => Ok(Reply::Done(format!("Roots: {}", answer["roots"]))),
            None => one("client_roots", roots(), None),
        },
        "request_state" => match (answers.and_then(|all| all.get("confirm")), state.as_deref()) {
            (Some(_), Some("confirm")) => Ok(Reply::Done("state-ok".into())),
            _ => one("confirm", elicit("Please confirm", &required("ok", "boolean")), Some("confirm")),
        },
        "tampered_state" => match (answers.and_then(|all| all.get("confirm")), state.as_deref()) {
            (Some(_), Some("sealed")) => Ok(Reply::Done("The state came back unchanged".into())),
            _ => one("confirm", elicit("Please confirm", &required("ok", "boolean")), Some("sealed")),
        },
        "multiple_inputs" => several(answers, state.as_deref()),
        "multi_round" => match state.as_deref() {
            Some("one") if answers.is_some_and(|all| all.contains_key("step1")) => one(
                "step2",
                elicit("Step 2: What is your favorite color?", &required("color", "string")),
                Some("two"),
            ),
            Some("two") if answers.is_some_and(|all| all.contains_key("step2")) => {
                Ok(Reply::Done("Both rounds are done".into()))
            }
            _ => one("step1", elicit("Step 1: What is your name?", &required("name", "string")), Some("one")),
        },
        "capabilities" => declared(answers, context),
        _ => return None,
    })
}

fn several(answers: Option<&BTreeMap<String, Value>>, state: Option<&str>) -> Result<Reply, ErrorData> {
    let asks: InputRequests = [
        ("user_name".to_owned(), elicit("What is your name?", &required("name", "string"))?),
        ("greeting".to_owned(), sample("Generate a greeting", 50)?),
        ("client_roots".to_owned(), roots()?),
    ]
    .into();
    let complete = answers.is_some_and(|all| asks.keys().all(|key| all.contains_key(key)));
    if complete && state == Some("several") {
        return Ok(Reply::Done("All three inputs came".into()));
    }
    Ok(Reply::Ask(asks, Some("several")))
}

fn declared(
    answers: Option<&BTreeMap<String, Value>>,
    context: &RequestContext<RoleServer>,
) -> Result<Reply, ErrorData> {
    if answers.is_some_and(|all| !all.is_empty()) {
        return Ok(Reply::Done("The declared inputs came".into()));
    }
    let declared = context.client_capabilities().unwrap_or_default();
    let mut asks = InputRequests::new();
    if declared.elicitation.is_some() {
        asks.insert("user_name".into(), elicit("What is your name?", &required("name", "string"))?);
    }
    if declared.sampling.is_some() {
        asks.insert("greeting".into(), sample("Generate a greeting", 50)?);
    }
    if declared.roots.is_some() {
        asks.insert("client_roots".into(), roots()?);
    }
    if asks.is_empty() {
        Ok(Reply::Done("The client declared nothing".into()))
    } else {
        Ok(Reply::Ask(asks, None))
    }
}

/// The accepted answer's field, if it is a string.
pub(super) fn field<'a>(
    answers: Option<&'a BTreeMap<String, Value>>,
    key: &str,
    field: &str,
) -> Option<&'a str> {
    answers?.get(key)?.get("content")?.get(field)?.as_str()
}

fn one(
    key: &str,
    ask: Result<InputRequest, ErrorData>,
    state: Option<&'static str>,
) -> Result<Reply, ErrorData> {
    Ok(Reply::Ask([(key.to_owned(), ask?)].into(), state))
}

/// A form with one required field.
pub(super) fn required(field: &str, kind: &str) -> Value {
    json!({"type": "object", "properties": {field: {"type": kind}}, "required": [field]})
}

pub(super) fn elicit(message: &str, schema: &Value) -> Result<InputRequest, ErrorData> {
    ask("elicitation/create", &json!({"mode": "form", "message": message, "requestedSchema": schema}))
}

fn sample(question: &str, tokens_max: u32) -> Result<InputRequest, ErrorData> {
    let message = json!({"role": "user", "content": {"type": "text", "text": question}});
    ask("sampling/createMessage", &json!({"messages": [message], "maxTokens": tokens_max}))
}

fn roots() -> Result<InputRequest, ErrorData> {
    ask("roots/list", &json!({}))
}

fn ask(method: &str, params: &Value) -> Result<InputRequest, ErrorData> {
    serde_json::from_value(json!({"method": method, "params": params}))
        .map_err(|error| ErrorData::internal_error(error.to_string(), None))
}
