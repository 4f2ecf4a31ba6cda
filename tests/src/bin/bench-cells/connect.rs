//! What a connection costs before its first byte: connect, accept, close, one after the other on loopback.
//!
//! `none`: no kernel program of the guard. `passing`: its programs are there, the port is not protected. `steered`: the port
//! is, and the guard's accept loop takes the connection. `identity`: the guard also finds out which process the client is, as
//! before a connection's first request. In each round each one is measured once, on the same port but for `passing`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use guard_tests::world::Netns;
use mcp_guard::accept::{Acceptor, Origin};
use mcp_guard::config::{Config, Kernel};
use mcp_guard::kernel::{Guard, unload};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The first argument of the processes that accept.
pub(crate) const DOOR: &str = "door";
/// How long a cell is warmed up, in each round.
const WARM_UP: Duration = Duration::from_millis(50);
/// How long the guard's cgroup may be busy after its end.
const BUSY: Duration = Duration::from_secs(10);

const PROTECTED: u16 = 3001;
const OPEN: u16 = 3002;

/// The ways of a connection, in the order of each round.
pub(crate) const CELLS: [&str; 4] = ["none", "passing", "steered", "identity"];

/// By cell and figure, with one value for each round.
pub(crate) type Measured = BTreeMap<&'static str, BTreeMap<&'static str, Vec<f64>>>;

/// The ratio of each cell's median to that of `none`, round by round.
pub(crate) fn ratios(measured: &Measured, cell: &str, figure: &str) -> Vec<f64> {
    let values =
        |cell: &str| measured.get(cell).and_then(|figures| figures.get(figure)).cloned().unwrap_or_default();
    values(cell).iter().zip(values("none")).map(|(value, none)| value / none).collect()
}

pub(crate) fn run(seconds: f64, runs: u32) -> anyhow::Result<Measured> {
    let netns = Netns::new();
    let name = format!("mg-connect-{}", std::process::id());
    let kernel =
        Kernel { bpffs: "/sys/fs/bpf".into(), pins: name.clone(), cgroup: name, ..Kernel::default() };
    let open = Door::start(&netns, &["plain", &OPEN.to_string()])?;
    let mut measured = Measured::new();
    let mut measure = |cell: &'static str, port: u16| {
        let taken = netns
            .run(|| connect(port, WARM_UP).and_then(|_| connect(port, Duration::from_secs_f64(seconds))));
        let figures = measured.entry(cell).or_default();
        for (figure, value) in figures_of(taken.with_context(|| format!("{cell}: no connection"))?) {
            figures.entry(figure).or_default().push(value);
        }
        anyhow::Ok(())
    };
    for _ in 0..runs {
        {
            let _plain = Door::start(&netns, &["plain", &PROTECTED.to_string()])?;
            measure("none", PROTECTED)?;
        }
        let config = json!({"servers": [{"name": "demo", "port": PROTECTED}], "kernel": kernel});
        let guarded = Door::start(&netns, &["guard", &config.to_string()]);
        let done = guarded.and_then(|mut guard| {
            measure("passing", OPEN)?;
            measure("steered", PROTECTED)?;
            guard.tell("identity")?;
            measure("identity", PROTECTED)
        });
        // Also when something failed: a port that stays closed is nobody's.
        take_away(&kernel)?;
        done?;
    }
    drop(open);
    Ok(measured)
}

fn take_away(kernel: &Kernel) -> anyhow::Result<()> {
    let end = Instant::now() + BUSY;
    loop {
        let unloaded = unload(kernel)?;
        if unloaded.left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "left behind: {:?}", unloaded.left);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Connects again and again until the other side has closed, and gives the microseconds of each.
fn connect(port: u16, time: Duration) -> anyhow::Result<Vec<f64>> {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (end, mut took) = (Instant::now() + time, Vec::new());
    while took.is_empty() || Instant::now() < end {
        let start = Instant::now();
        let mut stream = TcpStream::connect(target)?;
        ensure!(stream.read(&mut [0])? == 0, "somebody answered");
        drop(stream);
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(took)
}

fn figures_of(mut took: Vec<f64>) -> [(&'static str, f64); 4] {
    took.sort_by(f64::total_cmp);
    let total: f64 = took.iter().sum();
    let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
    let count = f64::from(u32::try_from(took.len()).unwrap_or(u32::MAX));
    [("p50_us", at(50)), ("p99_us", at(99)), ("per_s", count / total * 1e6), ("connections", count)]
}

/// A process that accepts. Ends when dropped.
struct Door {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Door {
    fn start(netns: &Netns, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(DOOR).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = netns.run(|| command.spawn())?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let mut door = Self { child, input, output };
        door.hear()?;
        Ok(door)
    }

    fn tell(&mut self, word: &str) -> anyhow::Result<()> {
        writeln!(self.input, "{word}")?;
        self.hear()
    }

    /// Waits for a line.
    fn hear(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "{:?} ended; it needs root and a kernel with sk_lookup", self.child);
        Ok(())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

/// What such a process does.
pub(crate) fn door(arguments: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match words.as_slice() {
        ["plain", port] => runtime.block_on(plain(port.parse()?)),
        ["guard", config] => runtime.block_on(guard(serde_json::from_str(config)?)),
        other => anyhow::bail!("no such door: {other:?}"),
    }
}

async fn plain(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("ready");
    loop {
        drop(listener.accept().await?);
    }
}

async fn guard(config: Value) -> anyhow::Result<()> {
    let config: Config = serde_json::from_value(config)?;
    let guard = Guard::start(Arc::new(config)).await?;
    let mut acceptor = Acceptor::new(&guard)?;
    let looks = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&looks);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            told.store(line == "identity", Ordering::Relaxed);
            println!("done");
        }
    });
    println!("ready");
    while let Some(accepted) = acceptor.accept().await {
        if !looks.load(Ordering::Relaxed) {
            continue;
        }
        tokio::spawn(async move {
            let Origin::Local(process) = &accepted.origin else { panic!("{:?}", accepted.origin) };
            let (process, witness) = (process.clone(), accepted.witness.clone());
            let (peer, own) = (accepted.peer, accepted.original_dst);
            let client = tokio::task::spawn_blocking(move || witness.look(&process, peer, own)).await;
            drop((client, accepted));
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_a_round() {
        let of = |values: &[f64]| BTreeMap::from([("p50_us", values.to_vec())]);
        let measured = Measured::from([("none", of(&[10.0, 20.0])), ("steered", of(&[12.0, 30.0]))]);
        assert_eq!(ratios(&measured, "steered", "p50_us"), [1.2, 1.5]);
        assert!(ratios(&measured, "identity", "p50_us").is_empty());
    }

    #[test]
    fn a_figure_is_of_all_connections() {
        let took = (1..=100).map(f64::from).collect();
        let figures = BTreeMap::from(figures_of(took));
        assert_eq!((figures["p50_us"], figures["p99_us"], figures["connections"]), (51.0, 100.0, 100.0));
    }
}
