//! The story, in its order. Each step is checked; the first that differs ends the demo with an error.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use guard_tests::process::program;
use serde_json::{Value, json};

use crate::agent::{Agent, brief};
use crate::screen::{Mark, Screen};
use crate::stage::{AGENTS, Stage};
use crate::{Options, bypass, interrupt, stay, trail, typescript};

/// Reads of the analytics agent within 60 s that its velocity rule lets through.
const READS: u64 = 100;

pub(crate) fn tell(options: &Options, screen: &Screen) -> anyhow::Result<()> {
    screen.title("mcp-guard, from an open port to a verified audit trail");
    let network = if options.stay { "this host's network" } else { "a network namespace of the demo's own" };
    let mut stage = Stage::new(options.port)?;

    screen.section(1, "An ordinary MCP server, and nothing in front of it");
    let (pid, at) = (stage.server.process.pid(), stage.server.address);
    screen
        .fact("server", &format!("customer-ops, pid {pid}, on {at} in {network}; built on rmcp, unmodified"));
    open_port(&stage, screen)?;
    screen
        .why("Whoever reaches the port reads customers and pays refunds. The server does not ask who it is.");

    interrupt::check()?;
    screen.section(2, "The guard takes the port; server, agents and tool definitions stay as they are");
    let agents = guard(&mut stage, screen)?;
    let before = stage.executed()?;

    interrupt::check()?;
    screen.section(3, "Three agents, and what the policy lets them do");
    tools(&agents.each(), screen)?;
    calls(&agents, screen)?;
    limit(&agents.analytics, screen)?;
    typescript::list(&agents.support, screen)?;

    interrupt::check()?;
    screen.section(4, "Past the guard? An ordinary user's processes try the server's port directly");
    past(&stage, screen)?;

    interrupt::check()?;
    screen.section(5, "The guard is killed");
    killed(&mut stage, &agents.support, screen)?;

    interrupt::check()?;
    screen.section(6, "What the server really did, and what the audit trail says");
    trail::compare(&stage, before, screen)?;
    trail::tamper(&stage, screen)?;

    interrupt::check()?;
    if options.stay {
        return stay::stay(stage, &agents.support, &agents.issued, screen);
    }
    screen.section(7, "The way back");
    back(stage, screen)?;
    screen.end(true, "Every step was checked; had one differed, the demo would have failed.");
    println!("Go on with your own client: cargo xtask demo --stay. How to set a guard up: README.md.");
    Ok(())
}

/// The agents of the policy.
struct Agents {
    lookup: Agent,
    support: Agent,
    analytics: Agent,
    /// What `tokens issue` said of the support agent.
    issued: Value,
}

impl Agents {
    fn each(&self) -> [&Agent; 3] {
        [&self.lookup, &self.support, &self.analytics]
    }
}

/// Without a guard, anybody reads and pays.
fn open_port(stage: &Stage, screen: &Screen) -> anyhow::Result<()> {
    let stranger = stage.stranger();
    let read = json!({"customer_id": "C-1001"});
    stranger.shows(screen, "read C-1001, plain HTTP", ("read_customer", &read), ("ok", "Ada Brandt"))?;
    let pay = json!({"customer_id": "C-1001", "amount": 5000});
    stranger.shows(screen, "refund of 5000 EUR", ("process_refund", &pay), ("ok", "booked"))
}

fn guard(stage: &mut Stage, screen: &Screen) -> anyhow::Result<Agents> {
    screen.fact("doctor", &doctor()?);
    let issued = AGENTS.map(|name| stage.issue(name));
    let [lookup, support, analytics] = issued;
    let [lookup, support, analytics] = [lookup?, support?, analytics?];
    screen.fact("tokens", "one credential each for lookup-agent, support-agent and analytics-agent");
    let start = Instant::now();
    let status = stage.start_guard()?;
    let took = start.elapsed().as_secs_f64();
    let claims = status["kernel"]["claims"].as_array().context("the status names no claims")?;
    let held = claims.iter().filter(|claim| claim["holds"] == true).count();
    ensure!(held > 0 && held == claims.len(), "not every claim holds: {claims:#?}");
    let (pid, version) = (&status["pid"], status["version"].as_str().unwrap_or_default());
    screen.fact(
        "guard",
        &format!("mcp-guard {version}, pid {pid}: protects port {} after {took:.1} s", stage.port),
    );
    screen.fact(
        "proof",
        &format!("{held} of {} claims proven with real connections at the start", claims.len()),
    );
    screen
        .why("The kernel's programs now steer every connection to the port to the guard, whoever opens it.");
    Ok(Agents {
        lookup: stage.agent("lookup", &lookup)?,
        support: stage.agent("support", &support)?,
        analytics: stage.agent("analytics", &analytics)?,
        issued: support,
    })
}

/// What this host offers, in one line.
fn doctor() -> anyhow::Result<String> {
    let mut command = Command::new(program("mcp-guard")?);
    // It makes and removes things to try them; a Ctrl-C must not end it halfway.
    let output = command.args(["doctor", "--json"]).process_group(0).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("doctor: {complaint}"))?;
    let rows = report["rows"].as_array().context("doctor shows no rows")?;
    let needed: Vec<&Value> = rows.iter().filter(|row| row["needed"] == true).collect();
    if report["ready"] != true {
        bail!("this host cannot run a guard; `cargo xtask doctor` says what is missing");
    }
    let release = nix::sys::utsname::uname()?;
    let release = release.release().to_string_lossy();
    Ok(format!("kernel {release} has all {} features that the guard needs, each one tried", needed.len()))
}

/// The filtered tool lists, side by side.
fn tools(agents: &[&Agent; 3], screen: &Screen) -> anyhow::Result<()> {
    let lists = agents.iter().map(|agent| agent.tools()).collect::<anyhow::Result<Vec<_>>>()?;
    let expected: [&[&str]; 3] =
        [&["read_customer"], &["read_customer", "process_refund", "send_email"], &["read_customer"]];
    let row = |name: &str, cells: [&str; 3]| {
        let [first, second, third] = cells;
        format!("{name:<18}{first:<12}{second:<12}{third:<12}").trim_end().to_owned()
    };
    Screen::line(&screen.paint("1", &row("tools/list shows", agents.map(|agent| agent.name.as_str()))));
    for tool in ["read_customer", "process_refund", "send_email", "update_account"] {
        let mark = |place: usize| if lists[place].iter().any(|listed| listed == tool) { "yes" } else { "-" };
        Screen::line(&row(tool, [mark(0), mark(1), mark(2)]));
    }
    for ((agent, list), expected) in agents.iter().zip(&lists).zip(expected) {
        let list: BTreeSet<&str> = list.iter().map(String::as_str).collect();
        ensure!(
            list == expected.iter().copied().collect(),
            "{} should see {expected:?}, but sees {list:?}",
            agent.name
        );
    }
    Ok(())
}

/// One call of each kind.
fn calls(agents: &Agents, screen: &Screen) -> anyhow::Result<()> {
    let read = json!({"customer_id": "C-1003"});
    let refund = json!({"customer_id": "C-1003", "amount": 25});
    let update = json!({"customer_id": "C-1003", "fields": {"plan": "gold"}});
    let mail = |recipients: usize| {
        let to: Vec<String> = (1..=recipients).map(|n| format!("user{n}@customers.example")).collect();
        json!({"to": to, "subject": "News", "body": "Hello"})
    };
    let Agents { lookup, support, analytics, .. } = agents;
    lookup.shows(screen, "read C-1003", ("read_customer", &read), ("ok", "Chiara Dorn"))?;
    analytics.shows(
        screen,
        "refund of 25 EUR",
        ("process_refund", &refund),
        ("refused", "Only support agents can process refunds"),
    )?;
    support.shows(
        screen,
        "refund of 25 EUR",
        ("process_refund", &refund),
        ("refused", "financial.refund.process needs the approval of role:support-lead"),
    )?;
    support.shows(screen, "e-mail to 10 recipients", ("send_email", &mail(10)), ("ok", "\"accepted\":10"))?;
    support.shows(screen, "e-mail to 11 recipients", ("send_email", &mail(11)), ("refused", ""))?;
    support.shows(
        screen,
        "update an account (no rule)",
        ("update_account", &update),
        ("refused", "Unknown tool: update_account"),
    )
}

/// The read that is one too many.
fn limit(analytics: &Agent, screen: &Screen) -> anyhow::Result<()> {
    let ended = analytics.repeat(READS + 1, "read_customer", &json!({"customer_id": "C-1005"}))?;
    let [good, refused] = ended.as_slice() else { bail!("{} reads ended in {ended:?}", READS + 1) };
    ensure!(
        good.outcome == "ok"
            && (good.from, good.to) == (1, READS)
            && refused.outcome == "refused"
            && refused.text.contains("Rate limit exceeded -- possible data enumeration")
            && refused.text.contains("tried again in"),
        "reads 1 to {READS} must pass and the next be refused: {ended:?}"
    );
    good.print(screen, "analytics", &format!("reads 1 to {READS} in a minute"));
    refused.print(screen, "analytics", &format!("read {}", refused.from));
    Ok(())
}

/// Every way to the port ends at the guard.
fn past(stage: &Stage, screen: &Screen) -> anyhow::Result<()> {
    let executed = stage.executed()?;
    for (kind, host) in [("tcp", "127.0.0.1"), ("tcp", "[::1]"), ("tcp", "127.0.0.9"), ("udp", "127.0.0.1")] {
        let address = format!("{host}:{}", stage.port);
        let met = bypass::attempt(kind, address.parse()?)?;
        let who = format!("pid {}", met.pid);
        if kind == "tcp" {
            let answer = met.answer.as_deref().unwrap_or_default();
            ensure!(answer.starts_with("HTTP/1.1 426 "), "{address} answered: {met:?}");
            let answer = answer.trim_start_matches("HTTP/1.1 ");
            screen.row(
                &who,
                &format!("HTTP to {address}"),
                Mark::Bad,
                "refused",
                &format!("the guard: {answer}"),
            );
        } else {
            ensure!(met.error.is_some(), "{address} answered UDP: {met:?}");
            let error = met.error.unwrap_or_default();
            screen.row(&who, &format!("UDP to {address}"), Mark::Bad, "refused", &error);
        }
    }
    ensure!(stage.executed()? == executed, "a bypass attempt reached the server");
    screen.why("The server saw none of them: the kernel steers the port, not one of its addresses.");
    Ok(())
}

/// Without a guard the port is closed, not open; the next start takes over.
fn killed(stage: &mut Stage, support: &Agent, screen: &Screen) -> anyhow::Result<()> {
    let pid = stage.daemon.pid().context("no guard runs")?;
    let kill = Instant::now();
    stage.daemon.kill()?;
    let met = bypass::attempt("tcp", format!("127.0.0.1:{}", stage.port).parse()?)?;
    let after = kill.elapsed().as_millis();
    ensure!(met.error.as_deref() == Some("ECONNREFUSED"), "after the kill, the port answered: {met:?}");
    screen.fact("kill -9", &format!("the guard, pid {pid}; it has no time to clean up"));
    let said = format!("ECONNREFUSED within {:.1} ms, {after} ms after the kill", millis(met.micros));
    screen.row(&format!("pid {}", met.pid), "HTTP, guard dead", Mark::Bad, "refused", &said);

    let read = json!({"customer_id": "C-1001"});
    let ended = support.call("read_customer", &read)?;
    ensure!(ended.outcome == "failed", "without a guard, the agent's call ended as {ended:?}");
    screen.row("support", "read C-1001, guard dead", Mark::Bad, "failed", &brief(&ended.text));

    let start = Instant::now();
    let status = stage.start_guard()?;
    let generation = &status["kernel"]["generation"];
    ensure!(generation == 2, "the new guard did not take over: generation {generation}");
    let took = start.elapsed().as_secs_f64();
    screen.fact(
        "guard",
        &format!("started again, pid {}: took the closed port over after {took:.1} s", status["pid"]),
    );
    support.shows(screen, "read C-1001", ("read_customer", &read), ("ok", "Ada Brandt"))?;
    screen.why("A guard that dies closes the door. It never leaves it open.");
    Ok(())
}

fn millis(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64() * 1000.0
}

/// Unloading leaves nothing; the server serves on.
fn back(mut stage: Stage, screen: &Screen) -> anyhow::Result<()> {
    let kernel = stage.daemon.config.kernel.clone();
    stage.daemon.stop()?;
    let unloaded = stage.daemon.unload()?;
    let pins = unloaded["pins"].as_array().map_or(0, Vec::len);
    let left = stage.ids.left();
    ensure!(left.is_empty(), "left in the kernel: {left:?}");
    let places = [kernel.bpffs.join(&kernel.pins), guard_tests::world::cgroup2_root().join(&kernel.cgroup)];
    for place in &places {
        ensure!(!place.exists(), "{} is left", place.display());
    }
    let gone = stage.ids.count();
    screen.fact(
        "unload",
        &format!("{pins} pins and the cgroup removed; the kernel has freed all {gone} programs and maps"),
    );
    let read = json!({"customer_id": "C-1001"});
    stage.stranger().shows(screen, "read C-1001, plain HTTP", ("read_customer", &read), ("ok", "Ada"))?;
    stage.close()?;
    screen.fact("clean-up", "server ended, files removed: this host is as it was");
    Ok(())
}
