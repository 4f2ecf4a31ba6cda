//! What a proxy before an MCP server costs: the same load on the bare server, on nginx and on the guard, in turns.
//!
//! Each cell has a network namespace of its own with its own server, so that no cell sees another's connections.
//! `cargo xtask bench` builds what this needs and starts it; docs/performance.md says how to read the figures.

mod cells;
mod connect;
mod disk;
mod machine;
mod report;
mod rounds;
mod usage;
mod velocity;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use rounds::Plan;

/// Compares the guard with nginx and with no proxy at all; needs root
#[derive(Parser)]
#[command(name = "bench-cells", max_term_width = 100)]
struct Options {
    /// Seconds of each closed-loop and each open-loop measurement
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds; in each, every cell is measured once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Connections, each with one call under way
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,
    /// Calls a second in the open loop
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Event streams at once
    #[arg(long, default_value_t = 2000)]
    streams: usize,
    /// The cells, in the order of each round
    #[arg(long, value_delimiter = ',', value_enum)]
    cells: Vec<Kind>,
    /// Also write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// No proxy: the load generator speaks to the server in plain HTTP
    Direct,
    /// Debian's nginx: TLS 1.3, a worker for each core, kept-alive connections to the server, no access log
    Nginx,
    /// The guard; a record is written before its call goes on, but not synced
    GuardOs,
    /// The guard; each record is on disk before its call goes on
    GuardDurable,
    /// No calls: what a connection costs without programs, past them, steered, and with its client's identity
    Connect,
    /// No calls: what event streams cost through the other cells, without nginx
    Streams,
    /// No calls: a velocity check among a million live keys, in this process
    Velocity,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Velocity,
        Self::Connect,
        Self::Streams,
        Self::Direct,
        Self::Nginx,
        Self::GuardOs,
        Self::GuardDurable,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::GuardOs => "guard-os",
            Self::GuardDurable => "guard-durable",
            Self::Connect => "connect",
            Self::Streams => "streams",
            Self::Velocity => "velocity",
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, rest)) if first == connect::DOOR => connect::door(rest),
        _ => run(&Options::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let kinds = if options.cells.is_empty() { &Kind::ALL[..] } else { &options.cells };
    let plan = Plan {
        seconds: options.seconds,
        runs: options.runs,
        connections: options.concurrency,
        rate: options.rate,
    };
    // A stream through the guard is two connections here.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let before = machine::Machine::now()?;
    let velocity = if kinds.contains(&Kind::Velocity) { velocity::run()? } else { Vec::new() };
    // First: the programs of other cells' guards would see these connections too.
    let connections = if kinds.contains(&Kind::Connect) {
        connect::run(plan.seconds, plan.runs).context("connect")?
    } else {
        connect::Measured::new()
    };
    let streams = if kinds.contains(&Kind::Streams) {
        let cells = [Kind::Direct, Kind::GuardOs]
            .map(cells::Cell::start)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        cells::streams::run(&cells, options.streams, plan.seconds)?
    } else {
        Vec::new()
    };
    let kinds = kinds.iter().filter(|kind| !matches!(kind, Kind::Connect | Kind::Streams | Kind::Velocity));
    let cells = kinds.map(|kind| cells::Cell::start(*kind)).collect::<anyhow::Result<Vec<_>>>()?;
    let measured = rounds::run(&plan, &cells)?;
    let report = report::Report {
        plan,
        before,
        load_after: machine::load(),
        measured,
        connections,
        streams,
        velocity,
    };
    print!("{}", report.text());
    if let Some(file) = &options.json {
        let text = serde_json::to_vec_pretty(&report.json())?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        println!("\nAll figures: {}", file.display());
    }
    Ok(())
}
