//! The daemon and the operator's command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use mcp_guard::cli::{self, Cli};
use mcp_guard::kernel::canary;

fn main() -> ExitCode {
    // Not an operator's command: the guard starts itself so, to try its own protection as a stranger.
    if std::env::args_os().nth(1).is_some_and(|first| first == canary::ARGUMENT) {
        return canary::child_main();
    }
    match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(error) => cli::misread(&error, std::env::args_os().skip(1)),
    }
}
