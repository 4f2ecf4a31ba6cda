//! The whole guard once, on the kernel that this runs on: what `cargo xtask kernel` runs inside a small machine with another
//! kernel, and `tests/tests/second_kernel.rs` on this one. It works in the network namespace that it is started in.
//!
//! Prints a line for each step, `ok` or `FAILED`, then `SMOKE PASSED` or `SMOKE FAILED`. What a kernel cannot do is a line of its own,
//! `LESS`, and must be told by the guard itself.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use guard_tests::daemon::{Credential, Daemon, Programs};
use guard_tests::https::{Https, Request, plain};
use guard_tests::process::{Process, START_LIMIT, eventually, program};
use guard_tests::scene::{ADDRESS, POLICY, PORT, call};
use guard_tests::slice::Slice;
use guard_tests::world;
use mcp_guard::config::Server;
use serde_json::{Value, json};

/// An emulated machine is slow.
const START: Duration = START_LIMIT.saturating_mul(3);
const NOBODY: u32 = 65_534;
/// A server of the second kind: it may connect nowhere.
const LOCKED: u16 = 3002;

/// What all steps work on.
struct Stage {
    daemon: Daemon,
    credential: Credential,
    server: Option<Process>,
    locked: Option<world::Process>,
    /// Last: it is busy as long as the servers live.
    slice: Slice,
}

type Step = (&'static str, fn(&mut Stage) -> anyhow::Result<String>);

const STEPS: [Step; 13] = [
    ("doctor says that the guard can protect ports here", doctor),
    ("a server that nobody protects is reached", unprotected),
    ("the guard starts and proves every claim", start),
    ("what this kernel cannot do is told, and the start refuses it if asked for", less),
    ("a call by TLS goes through the guard to the server", serves),
    ("a plain request is answered by the guard, not by the server", steers),
    ("the record of a call names the process that called", identity),
    ("another cgroup cannot bind the server's port", hold),
    ("a locked server can connect nowhere", lock_down),
    ("the kill switch refuses, and is taken back", kill_switch),
    ("a killed guard leaves the port refused, and the next one serves", crash),
    ("a guard takes over from another one", take_over),
    ("a stopped guard leaves the port refused, unload opens it and leaves nothing", end),
];

fn main() -> ExitCode {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("SMOKE on Linux {}", release.trim());
    let mut stage = match Stage::new() {
        Ok(stage) => stage,
        Err(error) => {
            println!("FAILED   nothing could be prepared: {error:#}\nSMOKE FAILED");
            return ExitCode::FAILURE;
        }
    };
    for (words, step) in STEPS {
        let start = Instant::now();
        match step(&mut stage) {
            Ok(seen) => println!("ok       {words} ({:.1} s){seen}", start.elapsed().as_secs_f32()),
            Err(error) => {
                println!("FAILED   {words}: {error:#}\nSMOKE FAILED");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("SMOKE PASSED");
    ExitCode::SUCCESS
}

impl Stage {
    fn new() -> anyhow::Result<Self> {
        let server = |entry: Value| serde_json::from_value::<Server>(entry);
        let servers = [
            server(json!({"name": "demo", "port": PORT}))?,
            server(json!({"name": "locked", "port": LOCKED, "egress": {"default": "deny"}}))?,
        ];
        let daemon = Daemon::new(Programs::built()?, None, &servers, &[("policy.yaml", POLICY)])?;
        let credential = daemon.issue("tester")?;
        let mut stage = Self { daemon, credential, server: None, locked: None, slice: Slice::new() };
        stage.open_servers()?;
        Ok(stage)
    }

    fn open_servers(&mut self) -> anyhow::Result<()> {
        let mut demo = Command::new(program("static-upstream")?);
        demo.args(["--listen", &ADDRESS.to_string()]).uid(NOBODY).gid(NOBODY).stdout(Stdio::null());
        self.slice.put("demo.service", &mut demo);
        self.server = Some(Process::spawn(None, demo)?);
        let mut locked = Command::new(program("steer-probe")?);
        locked.args(["worker", &format!("127.0.0.1:{LOCKED}")]);
        self.slice.put("locked.service", &mut locked);
        self.locked = Some(world::Process::start(&mut locked).map_err(anyhow::Error::msg)?);
        let up = eventually(START, || Ok(TcpStream::connect(ADDRESS).is_ok().then_some(())))?;
        up.context("the server does not listen")
    }

    /// One call as an agent makes it.
    fn call(&self) -> anyhow::Result<()> {
        let https = Https::new(ADDRESS, &self.daemon.ca())?;
        let answer = https.ask(&Request::post(&call(1, "open")).by(&self.credential))?;
        ensure!(answer.status == 200, "it is answered by {}", answer.status);
        Ok(())
    }

    fn status(&self, pointer: &str) -> anyhow::Result<Value> {
        self.daemon.status()?.pointer(pointer).cloned().with_context(|| format!("no {pointer} in the status"))
    }

    /// What an unsuccessful command says.
    fn refusal(&self, verb: &str) -> anyhow::Result<String> {
        let output = self.daemon.output(verb, &[])?;
        ensure!(!output.status.success(), "it succeeds");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn doctor(stage: &mut Stage) -> anyhow::Result<String> {
    let program = Programs::built()?.guard;
    let output = Command::new(program).args(["doctor", "--json"]).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(report["ready"] == true && output.status.success(), "{report:#}");
    drop(stage.daemon.write_config());
    let rows = report["rows"].as_array().context("rows")?;
    let missing = rows.iter().filter(|row| row["found"] != "yes" && is_of_the_kernel(row));
    let lines: Vec<_> = missing.map(|row| format!("\nLESS     doctor: {} is missing", row["what"])).collect();
    Ok(lines.concat())
}

/// The others are the host's: disk, clock.
fn is_of_the_kernel(row: &Value) -> bool {
    row["what"]
        .as_str()
        .is_some_and(|what| ["helper:", "map:", "program:"].iter().any(|kind| what.starts_with(kind)))
}

fn unprotected(_stage: &mut Stage) -> anyhow::Result<String> {
    let mut line = plain(ADDRESS)?;
    line.send(&Request::post(&call(1, "open")).bytes())?;
    ensure!(line.answer()?.status == 200);
    Ok(String::new())
}

fn start(stage: &mut Stage) -> anyhow::Result<String> {
    stage.daemon.start_within(START)?;
    let claims = stage.status("/kernel/claims")?;
    let claims = claims.as_array().context("claims")?;
    ensure!(claims.len() > 10 && claims.iter().all(|claim| claim["holds"] == true), "{claims:#?}");
    let programs = stage.status("/kernel/programs")?;
    Ok(format!("\n         {} claims, {} programs", claims.len(), programs.as_array().map_or(0, Vec::len)))
}

fn less(stage: &mut Stage) -> anyhow::Result<String> {
    let status = stage.daemon.status()?;
    let words = |pointer: &str| -> Vec<String> {
        let list = status.pointer(pointer).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (reduced, walls, mut locks) =
        (words("/kernel/reduced"), words("/kernel/wall/problems"), words("/kernel/lock_problems"));
    // The others are about servers.
    locks.retain(|words| words.contains("this kernel"));
    let log = stage.daemon.log()?;
    let programs = status.pointer("/kernel/programs").and_then(Value::as_array).context("programs")?;
    let has = |name: &str| programs.iter().any(|program| program["name"] == name);
    ensure!(has("wall") == walls.is_empty(), "a second wall that is missing must be told: {walls:?}");
    ensure!(has("leave") == locks.is_empty(), "a lock-down with a gap must be told: {locks:?}");
    let all = [&reduced[..], &walls[..], &locks[..]].concat();
    for words in &all {
        ensure!(log.contains(words.as_str()), "the start does not say: {words}");
        ensure!(words.len() < 400 && !words.contains('\n'), "too much for an operator: {words}");
    }
    if !reduced.is_empty() {
        stage.daemon.config.kernel.watch = vec!["system.slice".into()];
        stage.daemon.write_config()?;
        let refused = stage.refusal("run --take-over");
        stage.daemon.config.kernel.watch.clear();
        stage.daemon.write_config()?;
        let refused = refused?;
        ensure!(refused.contains("`kernel.watch` cannot be had on this kernel"), "{refused}");
        ensure!(stage.status("/kernel/protected")? == true, "the running guard goes on");
    }
    let lines: Vec<_> = all.iter().map(|words| format!("\nLESS     {words}")).collect();
    Ok(lines.concat())
}

fn serves(stage: &mut Stage) -> anyhow::Result<String> {
    stage.call()?;
    Ok(String::new())
}

fn steers(_stage: &mut Stage) -> anyhow::Result<String> {
    for ip in ["127.0.0.1", "127.0.0.9", "::ffff:127.0.0.1"] {
        let mut line = plain(SocketAddr::new(ip.parse()?, PORT))?;
        line.send(&Request::post(&call(1, "open")).bytes())?;
        let status = line.answer()?.status;
        ensure!(status == 426, "{ip} is answered by {status}");
    }
    Ok(String::new())
}

fn identity(stage: &mut Stage) -> anyhow::Result<String> {
    stage.call()?;
    let ledger = stage.daemon.ledger()?;
    let record = ledger.of_kind("call").last().context("no record of a call")?.clone();
    let text = record.to_string();
    ensure!(text.contains(&format!("\"pid\":{}", std::process::id())), "{text}");
    ensure!(text.contains("kernel-smoke"), "{text}");
    Ok(String::new())
}

fn hold(stage: &mut Stage) -> anyhow::Result<String> {
    let elsewhere = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), PORT));
    let refused = eventually(START, || Ok(TcpListener::bind(elsewhere).err()))?;
    let kind = refused.context("it binds the port")?.kind();
    ensure!(kind == ErrorKind::PermissionDenied, "{kind:?}");
    let counted = stage.status("/kernel/counters/bind_refused")?;
    Ok(format!("\n         {counted} refused"))
}

fn lock_down(stage: &mut Stage) -> anyhow::Result<String> {
    let target = TcpListener::bind("127.0.0.1:0")?;
    let ask = format!("connect {}", target.local_addr()?);
    let locked = stage.locked.as_mut().context("no locked server")?;
    let refused = eventually(START, || {
        let met = locked.ask(&ask);
        Ok(met["error"].as_str().filter(|error| error.contains("not permitted")).map(str::to_owned))
    })?;
    refused.context("it connects")?;
    Ok(String::new())
}

fn kill_switch(stage: &mut Stage) -> anyhow::Result<String> {
    let run = |verb: &str| -> anyhow::Result<()> {
        let output = stage.daemon.output(verb, &["--server", "demo"])?;
        ensure!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    run("block")?;
    refused()?;
    run("unblock")?;
    stage.call()?;
    Ok(String::new())
}

fn crash(stage: &mut Stage) -> anyhow::Result<String> {
    stage.daemon.kill()?;
    refused()?;
    let start = Instant::now();
    stage.daemon.start_within(START)?;
    let generation = stage.status("/kernel/generation")?;
    ensure!(generation == 2, "generation {generation}");
    eventually(START, || Ok(stage.call().ok()))?.context("the next guard does not serve")?;
    Ok(format!("\n         closed for {:.1} s", start.elapsed().as_secs_f32()))
}

fn take_over(stage: &mut Stage) -> anyhow::Result<String> {
    stage.daemon.upgrade_within(START)?;
    stage.call()?;
    Ok(String::new())
}

fn end(stage: &mut Stage) -> anyhow::Result<String> {
    let output = stage.daemon.output("stop", &[])?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && words.contains("stay CLOSED"), "{words}");
    stage.daemon.wait_for_end()?;
    refused()?;
    ensure!(stage.daemon.verify()?.code == Some(0), "the trail is not sound");
    stage.daemon.unload()?;
    let left = stage.daemon.config.kernel.bpffs.join(&stage.daemon.config.kernel.pins);
    ensure!(!left.exists(), "{} is left", left.display());
    unprotected(stage)
}

/// Fails unless a connection is refused.
fn refused() -> anyhow::Result<()> {
    match TcpStream::connect_timeout(&ADDRESS, Duration::from_secs(10)) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => bail!("not refused, but: {error}"),
        Ok(_) => bail!("somebody answers"),
    }
}
