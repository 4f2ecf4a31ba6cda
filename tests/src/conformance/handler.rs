//! Which request goes to which part of the fixture.
#![expect(deprecated, reason = "the session era's subscriptions and log levels are still in use")]

use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, CompleteRequestParams, CompleteResult,
    CompletionInfo, GetPromptRequestParams, GetPromptResponse, GetTaskParams, GetTaskResult, Implementation,
    ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
    ServerCapabilities, ServerConfig, SetLevelRequestMethod, SetLevelRequestParams, SubscribeRequestParams,
    SubscriptionFilter, Tool, UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};

use super::changes::Change;
use super::{Fixture, catalog, content, dialogue, prompts, resources, rounds, tasks, text};

/// How long `test_reconnection` waits, so that its client has to come back for the answer.
const RECONNECTION_PAUSE: Duration = Duration::from_millis(100);

/// Whether the request stands for itself (2026-07-28 and later) instead of in a session.
pub(super) fn is_modern(context: &RequestContext<RoleServer>) -> bool {
    context
        .protocol_version()
        .is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
}

impl Fixture {
    async fn simple_call(
        &self,
        request: &CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Option<Result<CallToolResponse, ErrorData>> {
        let arguments = request.arguments.clone().unwrap_or_default();
        let result = match request.name.as_ref() {
            "test_simple_text" => Ok(content::simple_text()),
            "test_image_content" => Ok(content::image()),
            "test_audio_content" => Ok(content::audio()),
            "test_embedded_resource" => Ok(content::embedded()),
            "test_multiple_content_types" => Ok(content::mixed()),
            "test_error_handling" => Ok(content::failure()),
            "json_schema_2020_12_tool" => Ok(text("The arguments fit")),
            "test_custom_header" => {
                Ok(text(format!("Region: {}", arguments.get("region").unwrap_or_default())))
            }
            "test_tool_with_logging" => dialogue::logging(context).await,
            "test_logging_tool" => Ok(dialogue::one_log(context).await),
            "test_tool_with_progress" => Ok(dialogue::progress(context).await),
            "test_sampling" => dialogue::sampling(&arguments, context).await,
            "test_elicitation" => dialogue::elicitation(&arguments, context).await,
            "test_elicitation_sep1034_defaults" => dialogue::defaults(context).await,
            "test_elicitation_sep1330_enums" => dialogue::choices(context).await,
            "test_missing_capability" => dialogue::missing_capability(context),
            "test_reconnection" => {
                tokio::time::sleep(RECONNECTION_PAUSE).await;
                Ok(text("Reconnected"))
            }
            "test_trigger_tool_change" => {
                self.changed(Change::Tools, context).await;
                Ok(text("The list of tools changed"))
            }
            "test_trigger_prompt_change" => {
                self.changed(Change::Prompts, context).await;
                Ok(text("The list of prompts changed"))
            }
            "test_streaming_elicitation" => {
                let answer = request.input_responses.as_ref().and_then(|all| all.get("name"));
                return Some(dialogue::streaming_elicitation(answer, context).await);
            }
            _ => return None,
        };
        Some(result.map(CallToolResponse::from))
    }

    async fn changed(&self, change: Change, context: &RequestContext<RoleServer>) {
        self.changes.announce(change);
        if is_modern(context) {
            return;
        }
        let _ = match change {
            Change::Tools => context.peer.notify_tool_list_changed().await,
            Change::Prompts => context.peer.notify_prompt_list_changed().await,
        };
    }
}

impl ServerHandler for Fixture {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_logging()
            .enable_completions()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_tasks()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("conformance-server", env!("CARGO_PKG_VERSION")))
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(catalog::tools().to_vec()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        catalog::tools().iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.journal.record(&request.name, &request.arguments);
        if let Some(result) = self.simple_call(&request, &context).await {
            return result;
        }
        if let Some(result) = rounds::call(&self.rounds, &request, &context) {
            return result;
        }
        if let Some(result) = tasks::call(&self.tasks, &request, &context).await {
            return result;
        }
        Err(ErrorData::invalid_params(format!("Unknown tool: {}", request.name), None))
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.tasks.get_task(&request.task_id).map(GetTaskResult::new)
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.tasks.cancel_task(&request.task_id)
    }

    async fn list_prompts(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(prompts::all()))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        prompts::prompt(&request)
    }

    async fn list_resources(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(resources::all()))
    }

    async fn list_resource_templates(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        resources::read(&request.uri).map(ReadResourceResponse::from)
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let typed = request.argument.value;
        let words = ["paris", "park", "party"].into_iter().filter(|word| word.starts_with(&typed));
        let completion = CompletionInfo::new(words.map(str::to_owned).collect());
        Ok(CompleteResult::new(completion.map_err(|error| ErrorData::internal_error(error, None))?))
    }

    async fn set_level(
        &self,
        _request: SetLevelRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        if is_modern(&context) { Err(ErrorData::method_not_found::<SetLevelRequestMethod>()) } else { Ok(()) }
    }

    async fn subscribe(
        &self,
        _request: SubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    async fn unsubscribe(
        &self,
        _request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, subscription: SubscriptionContext) -> Result<(), ErrorData> {
        self.changes.follow(&subscription).await;
        Ok(())
    }
}
