//! An MCP server on one TCP port, the way an ordinary server author does it with rmcp and axum.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::serve::ListenerExt;
use http::StatusCode;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use rmcp::ServerHandler;
use rmcp::transport::streamable_http_server::StreamableHttpServerConfig;
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::tower::StreamableHttpService;
use tokio::net::TcpListener;

/// The command line that all fixture servers share.
#[derive(Debug, Clone, clap::Args)]
pub struct Listen {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:3001")]
    pub listen: SocketAddr,
    /// Also answer requests for this host name or address (loopback is always answered)
    #[arg(long, value_name = "HOST")]
    pub allow_host: Vec<String>,
    /// Answer 401 unless the request's `Authorization` is one of the lines of this file, which is read for each request
    #[arg(long, value_name = "FILE")]
    pub demand: Option<PathBuf>,
}

/// Serves `handler` at `/mcp` until the process ends. Prints `listening on ADDR:PORT` once connections are taken.
pub async fn serve<H: ServerHandler + Clone, S: SessionManager>(
    options: &Listen,
    handler: H,
    sessions: Arc<S>,
) -> anyhow::Result<()> {
    let mut config = StreamableHttpServerConfig::default();
    config.allowed_hosts.extend(options.allow_host.iter().cloned());
    let service = StreamableHttpService::new(move || Ok(handler.clone()), sessions, config);

    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}: is another server on that port?", options.listen))?;
    announce(listener.local_addr()?)?;
    // Without TCP_NODELAY, small events wait 40 ms for the client's delayed acknowledgement.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let mut router = Router::new().nest_service("/mcp", service);
    if let Some(file) = options.demand.clone() {
        router = router.layer(from_fn(move |request: Request, next: Next| {
            let is_taken = has_one_of(&request, &file);
            async move { if is_taken { next.run(request).await } else { unauthorized().into_response() } }
        }));
    }
    axum::serve(listener, router).await?;
    Ok(())
}

fn has_one_of(request: &Request, file: &Path) -> bool {
    let shown: Vec<_> = request.headers().get_all(AUTHORIZATION).iter().collect();
    let [one] = shown.as_slice() else { return false };
    fs::read_to_string(file).is_ok_and(|lines| lines.lines().any(|line| one.as_bytes() == line.as_bytes()))
}

fn unauthorized() -> impl IntoResponse {
    (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer realm=\"the server\"")], "who are you?")
}

/// Tells whoever started this process where it listens: one line on stdout.
pub fn announce(address: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "listening on {address}")?;
    stdout.flush()
}
