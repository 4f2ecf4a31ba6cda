//! A guard of many namespaces: how long they take to protect, what they cost, and that nothing of them stays.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use aya::programs::loaded_programs;
use mcp_guard::config::Server;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use crate::daemon::{Daemon, Programs};
use crate::process::{eventually, program};
use crate::scene::{POLICY, PORT};
use crate::world::Netns;

/// How long one namespace may take to be protected, proven or let go, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// The least patience of all.
const PATIENCE_MIN: Duration = Duration::from_secs(60);
/// What the guard may hold more of after a round than after the one before, for what its allocator keeps: with many
/// namespaces so much for each, which finds a leak of 10 KiB for each.
const SPARE_EACH_KIB: u64 = 5;
/// The same with few: its threads and tables grow to their sizes in the first rounds.
const SPARE_MIN_KIB: u64 = 4 * 1024;

/// What one round measured.
#[derive(Debug)]
pub struct Round {
    /// How long it took to make them, beside the guard.
    pub made: Duration,
    /// From the first namespace's coming until the last is protected and proven.
    pub protected: Duration,
    /// From their end until the guard has let go of the last.
    pub released: Duration,
    pub with: Usage,
    pub after: Usage,
}

/// What the guard holds.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub files: usize,
    /// Memory of its own; pages of files are not counted.
    pub memory_kib: u64,
    /// Files below its pins.
    pub pins: usize,
    /// Programs of everybody.
    pub programs: usize,
}

/// A namespace with a server of this process in it.
struct Place {
    netns: Netns,
    server: AbortHandle,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// `rounds` times: `count` namespaces with a server come, are protected, and go.
pub fn run(count: usize, rounds: usize, mut told: impl FnMut(usize, &Round)) -> anyhow::Result<Vec<Round>> {
    let programs_before = loaded_programs().count();
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let links: Vec<_> = (0..count).map(|index| dir.path().join(index.to_string())).collect();
    let servers: Vec<Server> = links
        .iter()
        .enumerate()
        .map(|(index, link)| {
            let name = if index == 0 { "demo".into() } else { format!("demo-{index}") };
            Ok(serde_json::from_value(json!({"name": name, "port": PORT, "in": {"netns": link}}))?)
        })
        .collect::<anyhow::Result<_>>()?;
    // The verifier is of no use here, and an optimised build of it would take its time.
    let programs = Programs { guard: program("mcp-guard")?, verifier: PathBuf::new() };
    let mut daemon = Daemon::new(programs, None, &servers, &[("policy.yaml", POLICY)])?;
    daemon.start()?;
    let patience = PATIENCE_MIN.max(PATIENCE.saturating_mul(u32::try_from(count)?));
    let mut measured: Vec<Round> = Vec::new();
    for number in 0..rounds {
        let start = Instant::now();
        let places = make(&runtime, &links)?;
        let made = start.elapsed();
        wait(&daemon, patience, |kernel| {
            kernel["protected"] == true && kernel["namespaces"].as_array().map(Vec::len) == Some(count)
        })?;
        let protected = start.elapsed();
        let with = usage(&daemon)?;
        for place in &places {
            let met = place.netns.run(meet)?;
            ensure!(met.contains("426"), "somebody else than the guard answered: {met:?}");
        }
        let start = Instant::now();
        drop(places);
        links.iter().try_for_each(fs::remove_file)?;
        wait(&daemon, patience, |kernel| kernel["namespaces"] == json!([]))?;
        // Kernel objects are freed some time after their last user is gone.
        let idle = programs_before + 4;
        eventually(patience, || Ok((loaded_programs().count() <= idle + others(&daemon)?).then_some(())))?
            .context("programs of namespaces that are gone stay loaded")?;
        let round = Round { made, protected, released: start.elapsed(), with, after: usage(&daemon)? };
        told(number, &round);
        measured.push(round);
    }
    if let [.., former, last] = measured.as_slice() {
        let (former, last) = (former.after, last.after);
        ensure!(
            last.files <= former.files,
            "files leak: {} after a round, then {}",
            former.files,
            last.files
        );
        ensure!(last.pins <= former.pins, "pins leak: {} after a round, then {}", former.pins, last.pins);
        let spare = SPARE_MIN_KIB.max(SPARE_EACH_KIB.saturating_mul(count.try_into()?));
        ensure!(
            last.memory_kib <= former.memory_kib + spare,
            "memory leaks: {} KiB after a round, then {}; {spare} more would be the allocator's",
            former.memory_kib,
            last.memory_kib
        );
    }
    let log = daemon.log()?;
    if let Some(line) = log.lines().find(|line| line.contains("the kernel is not as the guard left it")) {
        bail!("what the guard itself took away was missed: {line}");
    }
    daemon.stop()?;
    daemon.unload()?;
    Ok(measured)
}

/// Programs of the guard that are no namespace's, beyond the four that every guard has.
fn others(daemon: &Daemon) -> anyhow::Result<usize> {
    let listed = daemon.status()?["kernel"]["programs"].as_array().map_or(0, Vec::len);
    Ok(listed.saturating_sub(4))
}

/// Takes connections and says nothing.
async fn serve(listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut stream, _peer) = listener.accept().await?;
        tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
    }
}

fn make(runtime: &Runtime, links: &[PathBuf]) -> anyhow::Result<Vec<Place>> {
    links
        .iter()
        .map(|link| {
            let netns = Netns::new();
            let listener = netns.run(|| TcpListener::bind(("0.0.0.0", PORT)))?;
            listener.set_nonblocking(true)?;
            std::os::unix::fs::symlink(netns.path(), link)?;
            Ok(Place { netns, server: runtime.spawn(serve(listener)).abort_handle() })
        })
        .collect()
}

/// What a client is told that speaks plain HTTP.
fn meet() -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
    stream.set_read_timeout(Some(PATIENCE_MIN))?;
    stream.write_all(b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 16];
    stream.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn wait(daemon: &Daemon, patience: Duration, fits: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
    let mut last = Value::Null;
    let done = eventually(patience, || {
        last = ask(daemon)?;
        Ok(fits(&last).then_some(()))
    })?;
    done.with_context(|| {
        let namespaces = last["namespaces"].as_array().map_or(0, Vec::len);
        let claims = last["claims"].as_array().cloned().unwrap_or_default();
        let fails: Vec<_> = claims.iter().filter(|claim| claim["holds"] != true).take(3).collect();
        format!(
            "not in {patience:?}: {namespaces} namespaces, {} claims, {fails:?}, {}",
            claims.len(),
            last["failed"]
        )
    })
}

/// What `status` says of the kernel side, protected or not.
fn ask(daemon: &Daemon) -> anyhow::Result<Value> {
    let output = daemon.output("status", &["--json"])?;
    let mut status: Value = serde_json::from_slice(&output.stdout)?;
    Ok(status["kernel"].take())
}

fn usage(daemon: &Daemon) -> anyhow::Result<Usage> {
    let pid = daemon.pid().context("no guard runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    // The fewest of some looks: what the guard just looks at is open for a moment.
    let mut files = Vec::new();
    for _ in 0..5 {
        files.push(fs::read_dir(format!("/proc/{pid}/fd"))?.count());
        thread::sleep(Duration::from_millis(100));
    }
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(Usage {
        files: files.into_iter().min().unwrap_or_default(),
        memory_kib: memory.trim().trim_end_matches(" kB").parse()?,
        pins: files_below(&daemon.config.kernel.bpffs.join(&daemon.config.kernel.pins))?,
        programs: loaded_programs().count(),
    })
}

fn files_below(dir: &Path) -> io::Result<usize> {
    fs::read_dir(dir)?.try_fold(0, |count, entry| {
        let entry = entry?;
        Ok(count + if entry.file_type()?.is_dir() { files_below(&entry.path())? } else { 1 })
    })
}
