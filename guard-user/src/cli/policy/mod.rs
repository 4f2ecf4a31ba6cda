//! `mcp-guard policy`

mod packs;
mod schema;
mod suggest;
mod test;

use std::process::ExitCode;

use clap::Subcommand;

use crate::config::Overrides;

/// `test`: a file has a mistake.
pub(super) const WRONG_INPUT: u8 = 2;

/// Try a policy before it is in force
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    config: Overrides,
    /// Print one JSON object, also on an error
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Test(test::Args),
    Packs(packs::Args),
    Schema(schema::Args),
    Suggest(suggest::Args),
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Packs(packs) => packs::run(&packs, &args.config, args.json),
        Command::Test(test) => test::run(test, &args.config, args.json),
        Command::Schema(schema) => schema::run(&schema),
        Command::Suggest(suggest) => suggest::run(suggest, &args.config, args.json),
    }
}
