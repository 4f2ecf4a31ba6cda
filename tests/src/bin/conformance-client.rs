//! The client of the official conformance suite's client scenarios, with rmcp: it uses all that the server offers,
//! once, and answers what the server asks with the defaults of the form.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use guard_tests::client::{Endpoint, Era, transport};
use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult,
    ElicitationAction, GetPromptRequestParams, Implementation, JsonObject, ReadResourceRequestParams, Tool,
};
use rmcp::service::{ClientServiceExt, RequestContext, RoleClient, RunningService};
use rmcp::{ClientHandler, ErrorData};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

/// Client for the client scenarios of the official conformance suite
#[derive(Parser)]
#[command(name = "conformance-client")]
struct Options {
    /// The server's MCP endpoint
    url: String,
    /// PEM file of the CA to trust
    #[arg(long, env = "SSL_CERT_FILE", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Headers of every request, as a JSON object
    #[arg(long, env = "MCP_HEADERS", default_value = "{}")]
    headers: String,
    /// The revision that the suite tests
    #[arg(long, env = "MCP_CONFORMANCE_PROTOCOL_VERSION", default_value = "2025-11-25")]
    revision: String,
    /// What the suite tells about the scenario, as a JSON object
    #[arg(long, env = "MCP_CONFORMANCE_CONTEXT", default_value = "{}")]
    context: String,
}

struct Filling;

impl ClientHandler for Filling {
    fn get_info(&self) -> ClientConfig {
        let capabilities = ClientCapabilities::builder().enable_elicitation().build();
        ClientConfig::new(capabilities, Implementation::new("conformance-client", "1"))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let request = serde_json::to_value(request).unwrap_or_default();
        let fields = request["requestedSchema"]["properties"].as_object().cloned().unwrap_or_default();
        let defaults =
            fields.into_iter().filter_map(|(name, field)| Some((name, field.get("default")?.clone())));
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(Value::Object(defaults.collect())))
    }
}

type Client = Arc<RunningService<RoleClient, Filling>>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let context: Value = serde_json::from_str(&options.context).context("MCP_CONFORMANCE_CONTEXT")?;
    let headers: Map<String, Value> = serde_json::from_str(&options.headers).context("MCP_HEADERS")?;
    let mut endpoint = Endpoint::plain(&options.url);
    endpoint.ca.clone_from(&options.ca);
    for (name, value) in headers {
        endpoint.headers.push((name, value.as_str().context("headers are texts")?.to_owned()));
    }
    let era = if options.revision.as_str() >= "2026-07-28" { Era::Auto } else { Era::Legacy };
    let client = Filling.serve_with_lifecycle(transport(&endpoint)?, era.lifecycle()).await?;
    let client = Arc::new(client);
    call_tools(&client, &context).await;
    read_all(&client).await;
    if let Ok(client) = Arc::try_unwrap(client) {
        // The session is over either way.
        let _ = client.cancel().await;
    }
    Ok(())
}

/// A refusal of one call must not keep the others from being tried.
async fn call_tools(client: &Client, context: &Value) {
    let tools = client.list_all_tools().await.unwrap_or_default();
    let calls: Vec<(String, JsonObject)> = match context["toolCalls"].as_array() {
        Some(calls) => calls.iter().filter_map(told).collect(),
        None => tools.iter().map(|tool| (tool.name.to_string(), sample(tool, &tools))).collect(),
    };
    let mut under_way = JoinSet::new();
    for (name, arguments) in calls {
        let client = Arc::clone(client);
        under_way.spawn(async move {
            client.call_tool(CallToolRequestParams::new(name).with_arguments(arguments)).await
        });
    }
    under_way.join_all().await;
}

fn told(call: &Value) -> Option<(String, JsonObject)> {
    Some((call["name"].as_str()?.to_owned(), call["arguments"].as_object()?.clone()))
}

/// Something that fits each argument. What is to be echoed is the schema of the first tool.
fn sample(tool: &Tool, tools: &[Tool]) -> JsonObject {
    let properties = tool.input_schema.get("properties").and_then(Value::as_object);
    let value = |name: &str, field: &Value| match (name, field["type"].as_str()) {
        ("schema", _) => json!(tools.first().map(|tool| &tool.input_schema)),
        (_, Some("number" | "integer")) => json!(1),
        (_, Some("boolean")) => json!(true),
        (_, Some("array")) => json!([]),
        (_, Some("object")) => json!({}),
        _ => json!("text"),
    };
    let samples = properties.into_iter().flatten().map(|(name, field)| (name.clone(), value(name, field)));
    samples.collect()
}

async fn read_all(client: &Client) {
    let offered = client.peer_info().map(|info| info.capabilities.clone()).unwrap_or_default();
    if offered.resources.is_some() {
        for resource in client.list_all_resources().await.unwrap_or_default() {
            let _ = client.read_resource(ReadResourceRequestParams::new(resource.uri.as_str())).await;
        }
    }
    if offered.prompts.is_some() {
        for prompt in client.list_all_prompts().await.unwrap_or_default() {
            let _ = client.get_prompt(GetPromptRequestParams::new(prompt.name.as_str())).await;
        }
    }
}
