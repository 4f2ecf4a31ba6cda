//! What it costs to find out who a local client is, in microseconds a connection: the client's socket, its process, its
//! cgroup and its executable. And what a digest costs, read and remembered.
//!
//! ```text
//! cargo run --release --example witness_cost
//! ```

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use mcp_guard::kernel::{Client, Witness};
use mcp_guard::types::LocalProcess;
use rustix::net::sockopt::socket_cookie;

const ROUNDS: usize = 7;
const LOOKS: u32 = 5_000;

fn main() -> anyhow::Result<()> {
    // A process that is older than a tick of the clock, as most clients are.
    std::thread::sleep(Duration::from_millis(50));
    let root = cgroup2_root()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, peer) = listener.accept()?;
    let own = accepted.local_addr()?;
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let hundredths: u64 = uptime.split(' ').next().context("no uptime")?.replace('.', "").parse()?;
    let process = LocalProcess {
        pid: std::process::id(),
        uid: 0,
        gid: 0,
        cgroup: cgroup(&root)?,
        comm: "witness_cost".into(),
        cookie: socket_cookie(&client)?,
        connected_at: hundredths * 10_000_000,
    };
    let witness = Witness::here(&root, u64::MAX)?;
    let Client::Process(evidence) = witness.look(&process, peer, own) else { anyhow::bail!("not found") };
    println!("{evidence:?}");
    let mut costs: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..LOOKS {
                std::hint::black_box(witness.look(&process, peer, own));
            }
            start.elapsed().as_secs_f64() * 1e6 / f64::from(LOOKS)
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    println!(
        "look: {:.1} us (median of {ROUNDS}, {:.1} to {:.1})",
        costs[ROUNDS / 2],
        costs[0],
        costs[ROUNDS - 1]
    );
    let bytes = std::fs::metadata("/proc/self/exe")?.len();
    for what in ["read", "remembered"] {
        let start = Instant::now();
        witness.digest(&evidence)?;
        let took = start.elapsed().as_secs_f64() * 1e6;
        println!("digest of {bytes} bytes, {what}: {took:.0} us");
    }
    Ok(())
}

fn cgroup2_root() -> anyhow::Result<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let line = table.lines().find(|line| line.contains(" - cgroup2 ")).context("no cgroup2 mount")?;
    Ok(line.split(' ').nth(4).context("no mount point")?.into())
}

fn cgroup(root: &std::path::Path) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup2 line")?;
    Ok(std::fs::metadata(root.join(path))?.ino())
}
