//! Tools that become tasks: the client polls `tasks/get`, answers with `tasks/update`, may `tasks/cancel`.

use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientCapabilities, ContentBlock,
    CreateTaskResult, InputRequiredResult, JsonObject,
};
use rmcp::service::RequestContext;
use rmcp::task_manager::{TaskContext, TaskExit, TaskFuture, TaskManager, TaskOptions};
use rmcp::{ErrorData, RoleServer};
use serde_json::Value;
use tokio::time::sleep;

use super::{bad_arguments, rounds, text};

/// How often clients are told to poll, in milliseconds.
const POLL_MILLISECONDS: u64 = 50;
/// How long `failing_job` works before it fails.
const WORK: Duration = Duration::from_millis(200);

/// Answers for the task tools; `None` for any other name.
pub(super) async fn call(
    tasks: &TaskManager,
    request: &CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Option<Result<CallToolResponse, ErrorData>> {
    let takes_tasks = context.client_capabilities().is_some_and(|declared| declared.supports_tasks());
    let arguments = request.arguments.clone().unwrap_or_default();
    Some(match request.name.as_ref() {
        "greet" => greet(&arguments),
        "slow_compute" => {
            let seconds = arguments.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
            let Ok(time) = Duration::try_from_secs_f64(seconds) else {
                return Some(Err(bad_arguments("\"seconds\" must not be negative")));
            };
            if takes_tasks {
                Ok(spawn(tasks, move |task| Box::pin(compute(time, task))))
            } else {
                sleep(time).await;
                Ok(text("computed").into())
            }
        }
        "failing_job" | "protocol_error_job" | "confirm_delete" | "multi_input" | "test_tool_with_task"
            if !takes_tasks =>
        {
            let required = ClientCapabilities::builder().enable_tasks().build();
            Err(ErrorData::missing_required_client_capability(required))
        }
        "failing_job" => Ok(spawn(tasks, |_| {
            Box::pin(async {
                sleep(WORK).await;
                Ok(CallToolResult::error(vec![ContentBlock::text("the job failed, as asked")]))
            })
        })),
        "protocol_error_job" => Ok(spawn(tasks, |_| {
            Box::pin(async {
                Err(TaskExit::Error(ErrorData::internal_error("the job broke, as asked", None)))
            })
        })),
        "confirm_delete" => Ok(spawn(tasks, move |task| Box::pin(confirm(arguments, task)))),
        "multi_input" => Ok(spawn(tasks, |task| Box::pin(two_inputs(task)))),
        "test_tool_with_task" => round_then_task(tasks, request),
        _ => return None,
    })
}

fn greet(arguments: &JsonObject) -> Result<CallToolResponse, ErrorData> {
    let name = arguments.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| bad_arguments("the argument \"name\" must be a string"))?;
    Ok(text(format!("Hello, {name}!")).into())
}

fn spawn(tasks: &TaskManager, work: impl FnOnce(TaskContext) -> TaskFuture) -> CallToolResponse {
    let options = TaskOptions::new().with_poll_interval_ms(POLL_MILLISECONDS);
    CreateTaskResult::new(tasks.spawn(options, work)).into()
}

async fn compute(time: Duration, task: TaskContext) -> Result<CallToolResult, TaskExit> {
    tokio::select! {
        () = sleep(time) => Ok(text("computed")),
        () = task.cancelled() => Err(TaskExit::Cancelled),
    }
}

async fn confirm(arguments: JsonObject, task: TaskContext) -> Result<CallToolResult, TaskExit> {
    let file = arguments.get("filename").and_then(Value::as_str).unwrap_or("the file");
    let ask = rounds::elicit(&format!("Delete {file}?"), &rounds::required("confirm", "boolean"))?;
    let answer = task.request_input("confirm", ask).await?;
    Ok(text(format!("{file}: {}", answer["action"])))
}

async fn two_inputs(task: TaskContext) -> Result<CallToolResult, TaskExit> {
    let ask = |message: &str| rounds::elicit(message, &rounds::required("name", "string"));
    let (first, second) = tokio::try_join!(
        task.request_input("first", ask("First name?")?),
        task.request_input("second", ask("Second name?")?),
    )?;
    Ok(text(format!("{} and {}", first["content"]["name"], second["content"]["name"])))
}

fn round_then_task(
    tasks: &TaskManager,
    request: &CallToolRequestParams,
) -> Result<CallToolResponse, ErrorData> {
    let Some(user) = rounds::field(request.input_responses.as_ref(), "user_name", "name") else {
        let ask = rounds::elicit("What is your name?", &rounds::required("name", "string"))?;
        let asks = [("user_name".to_owned(), ask)].into();
        return Ok(InputRequiredResult::from_input_requests(asks).into());
    };
    let said = format!("Task done for {user}");
    Ok(spawn(tasks, move |_| Box::pin(async move { Ok(text(said)) })))
}
