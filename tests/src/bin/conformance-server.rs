//! The fixture MCP server with the names of the official conformance suite.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use guard_tests::conformance::{Fixture, Sessions};
use guard_tests::journal::Journal;
use guard_tests::serve::{Listen, serve};

/// Fixture MCP server with the tools, prompts and resources of the official conformance suite
#[derive(Parser)]
#[command(name = "conformance-server")]
struct Options {
    #[command(flatten)]
    listen: Listen,
    /// Append one JSON line per executed call to this file instead of stderr
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let fixture = Fixture::new(Journal::open(options.journal.as_deref())?);
    serve(&options.listen, fixture, Arc::new(Sessions::default())).await
}
