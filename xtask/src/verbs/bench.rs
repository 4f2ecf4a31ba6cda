//! `cargo xtask bench`

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

use crate::command::Tool;
use crate::{ebpf, machine};

/// What a call and a connection cost: the guard beside nginx and beside no proxy, in one run
///
/// Builds everything optimised (the first time takes minutes), and on Debian as root installs nginx-light if there
/// is no nginx. Each cell runs in a network namespace of its own. A single wrong answer fails the run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of each closed-loop and each open-loop measurement [default: 5]
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds; in each, every cell is measured once [default: 5]
    #[arg(long)]
    runs: Option<u32>,
    /// Connections, each with one call under way [default: 8]
    #[arg(long)]
    concurrency: Option<u32>,
    /// Calls a second in the open loop [default: 500]
    #[arg(long)]
    rate: Option<f64>,
    /// Event streams at once [default: 2000]
    #[arg(long)]
    streams: Option<usize>,
    /// Only these: velocity, connect, streams, direct, nginx, guard-os, guard-durable
    #[arg(long)]
    cells: Option<String>,
    /// Also write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only see that it works: unoptimised, one short round, without nginx
    #[arg(long)]
    smoke: bool,
    #[command(flatten)]
    ebpf: ebpf::Options,
}

/// No more than these: an optimised build of one takes a minute or two.
const PROGRAMS: [&str; 4] = ["mcp-guard", "static-upstream", "load-gen", "bench-cells"];
const SMOKE: [&str; 12] = [
    "--seconds",
    "1.2",
    "--runs",
    "1",
    "--concurrency",
    "2",
    "--rate",
    "50",
    "--streams",
    "20",
    "--cells",
    "connect,streams,direct,guard-os",
];

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !machine::is_root() {
        bail!("the benchmark loads kernel programs and needs root.\n  Run this as root.");
    }
    if args.wants_nginx() {
        install_nginx()?;
    }
    ebpf::build(&args.ebpf)?;
    let release = (!args.smoke).then_some("--release");
    Tool::cargo()
        .args(["build", "--locked", "--package", "mcp-guard", "--package", "guard-tests"])
        .args(PROGRAMS.iter().flat_map(|program| ["--bin", program]))
        .args(release)
        .dir(&machine::root())
        .advice("The compiler's message stands above.")
        .run()?;
    let profile = if args.smoke { "debug" } else { "release" };
    let program = machine::target_dir().join(profile).join("bench-cells");
    Tool::new(program).args(args.of_cells()).run()?;
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn wants_nginx(&self) -> bool {
        match &self.cells {
            Some(cells) => cells.split(',').any(|cell| cell == "nginx"),
            None => !self.smoke,
        }
    }

    /// The command line of the program that measures. Where we have no word of our own, its defaults hold.
    fn of_cells(&self) -> Vec<OsString> {
        if self.smoke {
            return SMOKE.map(OsString::from).into();
        }
        let mut all = Vec::new();
        let mut add = |name: &str, value: Option<OsString>| {
            all.extend(value.map(|value| [OsString::from(name), value]).into_iter().flatten());
        };
        add("--seconds", self.seconds.map(|value| value.to_string().into()));
        add("--runs", self.runs.map(|value| value.to_string().into()));
        add("--concurrency", self.concurrency.map(|value| value.to_string().into()));
        add("--rate", self.rate.map(|value| value.to_string().into()));
        add("--streams", self.streams.map(|value| value.to_string().into()));
        add("--cells", self.cells.as_ref().map(OsString::from));
        add("--json", self.json.as_ref().map(OsString::from));
        all
    }
}

const NGINX_ADVICE: &str = "nginx is the yardstick. Install it, or leave its cell out: cargo xtask bench --cells connect,direct,guard-os";

fn install_nginx() -> anyhow::Result<()> {
    if machine::find_program("nginx").is_some() {
        return Ok(());
    }
    if !machine::is_debian() {
        bail!("there is no nginx here.\n  {NGINX_ADVICE}");
    }
    println!("apt-get install nginx-light: the yardstick");
    // A benchmark must not leave a web server running.
    machine::apt_install("nginx-light", NGINX_ADVICE)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(line: &str) -> Args {
        Line::parse_from(line.split(' ')).args
    }

    #[test]
    fn what_is_asked_for_is_handed_on() {
        let args = parsed("bench --runs 3 --cells direct,nginx --json out.json");
        assert_eq!(args.of_cells(), ["--runs", "3", "--cells", "direct,nginx", "--json", "out.json"]);
        assert!(args.wants_nginx() && parsed("bench").wants_nginx());
    }

    #[test]
    fn a_smoke_run_and_the_guards_own_cells_need_no_nginx() {
        assert!(!parsed("bench --smoke").wants_nginx());
        assert!(!parsed("bench --cells direct,guard-os").wants_nginx());
    }
}
