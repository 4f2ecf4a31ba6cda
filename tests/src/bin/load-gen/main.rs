//! An HTTP/1.1 load generator for MCP calls: closed loop, or an open loop at a fixed rate that counts the time a
//! request had to wait for its turn.

mod measure;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::json;

use traffic::{Load, Stop, Target};

/// Sends MCP calls over keep-alive connections and prints one JSON object with what it measured
#[derive(Parser)]
#[command(name = "load-gen", max_term_width = 100)]
struct Options {
    /// The MCP endpoint, http or https
    #[arg(long)]
    url: Uri,
    /// PEM file of the CA to trust; needed for https
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A header of every request; repeat for more
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// File with the request's body; its `ID` (the letters) becomes a number of its own. Default: a tools/call
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Connections, each with one request under way
    #[arg(long, short, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Open loop: start this many requests a second over all connections
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Stop after this many measured requests
    #[arg(long, short, conflicts_with = "seconds")]
    number: Option<u64>,
    /// Stop after this many measured seconds
    #[arg(long, short, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of the same load first, not measured
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Worker threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// A small call of the stateless era. The guard and servers that check want its `Mcp-*` headers too.
const CALL: &str = r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"read_customer","arguments":{"customer_id":"C-1001"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads.max(1))
        .enable_all()
        .build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load-gen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let body = match &options.body {
        Some(file) => {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
        }
        None => CALL.to_owned(),
    };
    let headers: HeaderMap = options.headers.into_iter().collect();
    let target = Arc::new(Target::new(&options.url, options.ca.as_deref(), headers, &body)?);
    let load = Load { connections: options.connections, rate: options.rate };
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).context("a time must not be negative");

    let mut warm_up_errors = 0;
    if options.warm_up > 0.0 {
        warm_up_errors = traffic::run(&target, load, Stop::After(seconds(options.warm_up)?)).await?.errors;
    }
    let stop = match options.number {
        Some(number) => Stop::Count(number),
        None => Stop::After(seconds(options.seconds)?),
    };
    let measured = traffic::run(&target, load, stop).await?;
    let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|share| measured.percentile_us(share));
    println!(
        "{}",
        json!({
            "requests": measured.requests(),
            "errors": measured.errors,
            "warm_up_errors": warm_up_errors,
            "first_error": measured.first_error,
            "seconds": measured.elapsed.as_secs_f64(),
            "req_per_s": measured.per_second(),
            "p50_us": p50,
            "p90_us": p90,
            "p99_us": p99,
            "p999_us": p999,
            "max_us": measured.percentile_us(1.0),
        })
    );
    Ok(())
}

fn parse_header(text: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').context("a header is NAME: VALUE")?;
    Ok((name.trim().parse()?, value.trim().parse()?))
}
