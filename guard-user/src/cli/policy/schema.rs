//! `mcp-guard policy schema`

use std::process::ExitCode;

use crate::cli::output;
use crate::policy::schema::Schema;

/// Print the JSON Schema of a kind of file, for editors that complete and check while one writes
///
/// It tells what is wrong with a file's shape. What names refer to and whether a condition can hold, `mcp-guard check` tells.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which files: guard.yaml, policy files, or cases of `policy test`
    #[arg(value_enum, default_value_t = Kind::Policy)]
    kind: Kind,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    Guard,
    Policy,
    Cases,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let schema = match args.kind {
        Kind::Guard => Schema::Guard,
        Kind::Policy => Schema::Policy,
        Kind::Cases => Schema::Cases,
    };
    output::print(schema.text().trim_end())?;
    Ok(ExitCode::SUCCESS)
}
