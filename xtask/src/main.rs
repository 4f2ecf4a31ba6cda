//! `cargo xtask`: builds, loads, shows and tests mcp-guard from a checkout.
//!
//! A verb is one file in `verbs/` with `Args` (its command line and help) and `run(&Args)`, and one line in the
//! list below.
#![forbid(unsafe_code)]

mod command;
mod ebpf;
mod guard;
mod guest;
mod machine;
mod verbs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, loads, shows and tests mcp-guard.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

macro_rules! verbs {
    ($($Verb:ident => $module:ident,)*) => {
        #[derive(Debug, Subcommand)]
        enum Verb {
            $($Verb(verbs::$module::Args),)*
        }

        impl Verb {
            fn run(&self) -> anyhow::Result<ExitCode> {
                match self {
                    $(Self::$Verb(args) => verbs::$module::run(args),)*
                }
            }
        }
    };
}

// In the order in which a newcomer needs them; `--help` shows this order.
verbs! {
    Demo => demo,
    Doctor => doctor,
    Build => build,
    Run => run,
    Load => load,
    Status => status,
    Unload => unload,
    Test => test,
    Kernel => kernel,
    Lint => lint,
    Bench => bench,
    Upgrades => upgrades,
    Kills => kills,
    Namespaces => namespaces,
    Churn => churn,
    Faults => faults,
    Fuzz => fuzz,
}

fn main() -> ExitCode {
    match Cli::parse().verb.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
