//! The daemon and the operator's command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match mcp_guard::cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mcp-guard: {error:#}");
            ExitCode::FAILURE
        }
    }
}
