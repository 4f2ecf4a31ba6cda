//! What a velocity check costs among a million live keys, and what a key takes in memory; beside it a plain locked map that
//! counts by minute, without a window that slides, records or a bound, and what one read of as much memory costs on this machine. In
//! this process: no guard, no network.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, ensure};
use mcp_guard::config::Server;
use mcp_guard::policy::{Circumstances, Decision, Policy, Question};
use mcp_guard::rpc::Target;
use mcp_guard::types::{AgentName, ServerName};
use mcp_guard::velocity::{Admission, Call, Room, Velocity};
use serde_json::{Value, json};

const KEYS: u32 = 1_000_000;
const SAMPLES: usize = 200_000;
/// One after the other, keys that are far from each other.
const STRIDE: u32 = 514_229;
const LINE_BYTES: usize = 64;
/// As much memory as a million keys take.
const LINES: usize = 2_500_000;
const POLICY: &str = r"
agents: {a: {client_id: c}}
intents: {i.x: [{server: s, tool: t}]}
policies: [{intent: i.x, agents: [a], decision: allow}]
velocity_rules: [{per: user, intent: i.x, window: 1h, max_calls: 1000, exceeded_action: deny}]
";

#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) what: &'static str,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) bytes_per_key: f64,
}

impl Measured {
    pub(crate) fn json(&self) -> Value {
        json!({ "what": self.what, "keys": KEYS, "p50_ns": self.p50_ns, "p99_ns": self.p99_ns,
            "bytes_per_key": self.bytes_per_key })
    }
}

pub(crate) fn run() -> anyhow::Result<Vec<Measured>> {
    let users: Vec<String> = (0..KEYS).map(|n| format!("user-{n}@example.com")).collect();
    Ok(vec![guard(&users)?, map(&users)?, memory()?])
}

fn guard(users: &[String]) -> anyhow::Result<Measured> {
    let server: Server = serde_json::from_value(json!({"name": "s", "port": 1}))?;
    let policy = Policy::from_texts(&[("p.yaml".into(), POLICY.to_owned())], &[server])?;
    let (agent, server) = (AgentName::parse("a")?, ServerName::parse("s")?);
    let target = Target::Tool("t");
    let around = Circumstances::default();
    let question = Question {
        agent: &agent,
        profile: None,
        server: &server,
        method: "tools/call",
        target,
        arguments: None,
        around,
    };
    let Decision::Allow(allow) = policy.decide(&question) else { anyhow::bail!("the call must be allowed") };
    let velocity = Velocity::new(Room { all: users.len(), each: users.len(), kept: 0 });
    let check = |now: u64, user: &str| {
        let call = Call { agent: &agent, user: Some(user), session: None, server: &server, tool: Some("t") };
        matches!(black_box(velocity.admit(now, &call, allow.velocity())), Admission::Within(_))
    };
    let measured = measure("velocity", users, check)?;
    ensure!(velocity.keys() == users.len(), "{} keys", velocity.keys());
    Ok(measured)
}

fn map(users: &[String]) -> anyhow::Result<Measured> {
    let counts: Mutex<HashMap<String, (u64, u64)>> = Mutex::default();
    measure("a locked map", users, |now, user| {
        let mut counts = counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let minute = now / 60_000;
        let count = match counts.get_mut(user) {
            Some(count) => count,
            None => counts.entry(user.to_owned()).or_default(),
        };
        if count.0 != minute {
            *count = (minute, 0);
        }
        count.1 += 1;
        count.1 <= 1000
    })
}

/// One read at a time, of a line that no cache has and that only the read before tells: what each look at a key's count waits for.
fn memory() -> anyhow::Result<Measured> {
    // Each line tells the next one: all of them are one ring.
    let mut lines = vec![[0_u32; LINE_BYTES / 4]; LINES];
    let mut order: Vec<u32> = (0..u32::try_from(LINES)?).collect();
    let mut roll = 1_u64;
    for last in (1..LINES).rev() {
        roll = roll.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, usize::try_from(roll >> 33)? % last);
    }
    for (from, to) in order.iter().zip(order.iter().cycle().skip(1)) {
        lines[usize::try_from(*from)?][0] = *to;
    }
    let mut costs = Vec::with_capacity(SAMPLES);
    let mut at = 0_usize;
    for _ in 0..SAMPLES {
        let begun = Instant::now();
        at = usize::try_from(black_box(lines[black_box(at)][0]))?;
        costs.push(u64::try_from(begun.elapsed().as_nanos())?);
    }
    let bytes = f64::from(u32::try_from(LINES * LINE_BYTES)?);
    Ok(measured("one read of memory", costs, bytes))
}

/// All keys are made and counted three times, then each check is timed by itself.
fn measure(
    what: &'static str,
    users: &[String],
    check: impl Fn(u64, &str) -> bool,
) -> anyhow::Result<Measured> {
    let before = resident()?;
    let mut now = 1_000_000;
    for round in 0..3_u64 {
        for user in users {
            ensure!(check(now + round * 1_000, user), "a check refused the load");
        }
    }
    let bytes = resident()?.saturating_sub(before);
    let mut costs = Vec::with_capacity(SAMPLES);
    let mut at = 0;
    for _ in 0..SAMPLES {
        at = (at + STRIDE) % KEYS;
        // The name of a caller that was just read is in the cache; what is kept of it is not.
        let user = black_box(users.get(usize::try_from(at)?).context("a key")?.clone());
        now += 1;
        let begun = Instant::now();
        let is_within = check(now + 3_000, &user);
        costs.push(u64::try_from(begun.elapsed().as_nanos())?);
        ensure!(is_within, "a check refused the load");
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes = bytes as f64;
    Ok(measured(what, costs, bytes))
}

fn measured(what: &'static str, mut costs: Vec<u64>, bytes: f64) -> Measured {
    costs.sort_unstable();
    let part = |of: usize| costs.get(SAMPLES * of / 100).copied().unwrap_or_default();
    Measured { what, p50_ns: part(50), p99_ns: part(99), bytes_per_key: bytes / f64::from(KEYS) }
}

/// Bytes that this process has in memory.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("resident memory")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}
