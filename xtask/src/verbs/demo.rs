//! `cargo xtask demo`

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;

use crate::command::Tool;
use crate::{ebpf, guard, machine};

/// Build everything, then show the guard at work: a sample server, three agents, and what must not pass
///
/// Takes about a minute once built. All of it happens in a network namespace and under names of the demo's own,
/// beside whatever runs here, and is gone afterwards, after Ctrl-C as well. Every line is checked: the demo fails
/// if reality differs from its story. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Use this host's own network, leave everything running at the end and print what your client needs
    #[arg(long)]
    stay: bool,
    /// The sample server's port
    #[arg(long, value_name = "PORT", default_value_t = 3001)]
    port: u16,
    #[command(flatten)]
    profile: guard::Profile,
    #[command(flatten)]
    ebpf: ebpf::Options,
}

/// All that the story needs.
const BINARIES: [&str; 5] = ["mcp-guard", "mcp-guard-verify", "customer-ops", "mcp-agent", "demo"];

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !machine::is_root() {
        bail!("the demo loads kernel programs and makes a network of its own; run it as root");
    }
    step("kernel programs (eBPF)");
    ebpf::build(&args.ebpf)?;
    step("guard, sample server, agents");
    let release = args.profile.is_release().then_some("--release");
    Tool::cargo()
        .args(["build", "--locked", "--package", "mcp-guard", "--package", "guard-tests"])
        .args(BINARIES.iter().flat_map(|name| ["--bin", name]))
        .args(release)
        .dir(&machine::root())
        .advice("The compiler's message stands above.")
        .run()?;
    if args.ebpf.may_install() {
        typescript_client(&machine::root().join("tests/peers"));
    }
    let demo = machine::target_dir().join(args.profile.dir()).join("demo");
    let mut demo =
        Tool::new(demo).args(["--port", &args.port.to_string()]).args(args.stay.then_some("--stay"));
    // The demo becomes this process, so that Ctrl-C reaches what cleans up.
    Err(demo.exec())
}

fn step(what: &str) {
    println!("── building: {what}");
}

/// Installs the TypeScript SDK's client where npm is; the demo does without it, and says so.
fn typescript_client(peers: &Path) {
    if peers.join("node_modules/@modelcontextprotocol/sdk").is_dir() || machine::find_program("npm").is_none()
    {
        return;
    }
    step("TypeScript client (npm ci)");
    let installed = Tool::new("npm")
        .args(["ci", "--no-audit", "--no-fund", "--loglevel=error"])
        .dir(peers)
        .advice("The demo goes on without the TypeScript client.")
        .run();
    if let Err(error) = installed {
        eprintln!("{error:#}");
    }
}
