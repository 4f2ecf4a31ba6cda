//! A real MCP client (rmcp) with what an agent of the guard needs: a private CA and its three headers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use http::{HeaderName, HeaderValue};
use rmcp::ServiceError;
use rmcp::model::{
    ArgumentInfo, CallToolRequestParams, CallToolResult, ClientRequest, CompleteRequestParams, CustomRequest,
    GetPromptRequestParams, ProtocolVersion, ReadResourceRequestParams, Reference, ResourceContents,
};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt, RoleClient, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::timeout;

mod answering;

use answering::Answering;

/// Where a server is and how to be let in. The same for all drivers, direct or through the guard.
#[derive(Debug, Clone, Default)]
pub struct Endpoint {
    pub url: String,
    /// PEM file of the only CA to trust; without one, the URL must be plain HTTP.
    pub ca: Option<PathBuf>,
    /// Headers of every request.
    pub headers: Vec<(String, String)>,
}

impl Endpoint {
    /// A server without TLS and without credentials.
    pub fn plain(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    #[must_use]
    pub fn trusting(mut self, ca: &Path) -> Self {
        self.ca = Some(ca.to_owned());
        self
    }

    /// Adds the three headers that say who the agent is.
    #[must_use]
    pub fn identified(mut self, client: &str, profile: &str, secret: &str) -> Self {
        let mut add = |name: &str, value: String| self.headers.push((name.to_owned(), value));
        add("X-Client-ID", client.to_owned());
        add("X-Profile-ID", profile.to_owned());
        add("Authorization", format!("Bearer {secret}"));
        self
    }
}

/// How a client opens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Era {
    /// `initialize` and a session, up to 2025-11-25
    Legacy,
    /// `server/discover` and stateless requests, 2026-07-28
    Modern,
    /// Modern, or legacy where the server does not know `server/discover`
    #[default]
    Auto,
}

impl Era {
    /// How rmcp calls it.
    pub fn lifecycle(self) -> ClientLifecycleMode {
        let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
        match self {
            Self::Legacy => ClientLifecycleMode::Initialize,
            Self::Modern => ClientLifecycleMode::Discover { preferred_versions },
            Self::Auto => ClientLifecycleMode::Auto { preferred_versions, legacy_version: None },
        }
    }
}

/// rmcp's way to the endpoint.
pub fn transport(endpoint: &Endpoint) -> anyhow::Result<StreamableHttpClientTransport<reqwest::Client>> {
    let mut config = StreamableHttpClientTransportConfig::with_uri(endpoint.url.as_str());
    config.custom_headers = headers(&endpoint.headers)?;
    let http = http_client(endpoint.ca.as_deref())?;
    Ok(StreamableHttpClientTransport::with_client(http, config))
}

/// A connected client. It answers sampling and elicitation requests by itself.
pub struct Client {
    service: RunningService<RoleClient, Answering>,
    seen: Arc<Seen>,
}

/// What the server sent besides answers.
#[derive(Debug, Default)]
pub struct Seen {
    progress: watch::Sender<usize>,
    asked: AtomicUsize,
}

impl Client {
    pub async fn connect(endpoint: &Endpoint, era: Era) -> anyhow::Result<Self> {
        let seen = Arc::new(Seen::default());
        let service = Answering::new(seen.clone())
            .serve_with_lifecycle(transport(endpoint)?, era.lifecycle())
            .await
            .with_context(|| format!("no MCP session with {}", endpoint.url))?;
        Ok(Self { service, seen })
    }

    /// What the server calls itself, if it says.
    pub fn server_name(&self) -> Option<String> {
        let info = self.service.peer_info()?;
        info.server_info.as_ref().map(|server| server.name.clone())
    }

    /// The revision of the session, or of stateless requests.
    pub fn version(&self) -> Option<String> {
        self.service.peer_info().map(|info| info.protocol_version.to_string())
    }

    pub async fn tools(&self) -> Result<Vec<String>, ServiceError> {
        let tools = self.service.list_all_tools().await?;
        Ok(tools.into_iter().map(|tool| tool.name.into_owned()).collect())
    }

    /// Calls a tool to its end, over several rounds if the server wants input. `arguments` must be an object.
    pub async fn call(&self, tool: &str, arguments: Value) -> Result<CallToolResult, ServiceError> {
        let Value::Object(arguments) = arguments else { panic!("arguments must be a JSON object") };
        let request = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        self.service.call_tool(request).await
    }

    /// The text of a resource; binary contents are left out.
    pub async fn read(&self, uri: &str) -> Result<String, ServiceError> {
        let result = self.service.read_resource(ReadResourceRequestParams::new(uri)).await?;
        let texts = result.contents.iter().filter_map(|content| match content {
            ResourceContents::TextResourceContents { text, .. } => Some(text.as_str()),
            _ => None,
        });
        Ok(texts.collect::<Vec<_>>().join("\n"))
    }

    /// The text of a prompt without arguments.
    pub async fn prompt(&self, name: &str) -> Result<String, ServiceError> {
        let result = self.service.get_prompt(GetPromptRequestParams::new(name)).await?;
        let texts = result.messages.iter().filter_map(|message| message.content.as_text());
        Ok(texts.map(|block| block.text.as_str()).collect::<Vec<_>>().join("\n"))
    }

    /// What an argument of a prompt could be.
    pub async fn complete(&self, prompt: &str) -> Result<String, ServiceError> {
        let argument = ArgumentInfo::new("a", "");
        let request = CompleteRequestParams::new(Reference::for_prompt(prompt), argument);
        Ok(self.service.complete(request).await?.completion.values.join("\n"))
    }

    /// A request with a method that the SDK does not know.
    pub async fn custom(&self, method: &str) -> Result<String, ServiceError> {
        let request =
            ClientRequest::CustomRequest(CustomRequest::new(method, Some(Value::Object(Map::new()))));
        Ok(format!("{:?}", self.service.send_request(request).await?))
    }

    /// Progress notifications so far. rmcp handles each in a task of its own, maybe after the call's answer.
    pub fn progress(&self) -> usize {
        *self.seen.progress.borrow()
    }

    /// Waits until there are `count` progress notifications, at most for `limit`, and returns their number.
    pub async fn progress_reaches(&self, count: usize, limit: Duration) -> usize {
        let mut seen = self.seen.progress.subscribe();
        // In time or not, the number tells.
        let _ = timeout(limit, seen.wait_for(|seen| *seen >= count)).await;
        self.progress()
    }

    /// Sampling and elicitation requests answered so far.
    pub fn asked(&self) -> usize {
        self.seen.asked.load(Ordering::SeqCst)
    }

    /// Ends the session.
    pub async fn close(self) {
        // The session is over either way; a server that has gone cannot confirm it.
        let _ = self.service.cancel().await;
    }
}

/// All text of a result, lines joined.
pub fn said(result: &CallToolResult) -> String {
    let texts = result.content.iter().filter_map(|block| block.as_text());
    texts.map(|block| block.text.as_str()).collect::<Vec<_>>().join("\n")
}

fn headers(pairs: &[(String, String)]) -> anyhow::Result<HashMap<HeaderName, HeaderValue>> {
    let parse = |(name, value): &(String, String)| {
        let mut parsed: HeaderValue = value.parse().with_context(|| format!("the value of {name}"))?;
        parsed.set_sensitive(name.eq_ignore_ascii_case("authorization"));
        Ok((name.parse().with_context(|| format!("the header name {name:?}"))?, parsed))
    };
    pairs.iter().map(parse).collect()
}

fn http_client(ca: Option<&Path>) -> anyhow::Result<reqwest::Client> {
    let mut tls = crate::tls::client_config(ca)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    Ok(builder.tcp_nodelay(true).tls_backend_preconfigured(tls).build()?)
}
