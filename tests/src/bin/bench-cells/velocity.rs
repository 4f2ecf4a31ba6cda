//! What a velocity check costs among a million live keys, and what a key takes in memory; beside it a plain locked map that
//! counts by minute, without a window that slides, records or a bound. In this process: no guard, no network.

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
    Ok(vec![guard(&users)?, map(&users)?])
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
    costs.sort_unstable();
    let part = |of: usize| costs.get(SAMPLES * of / 100).copied().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let bytes_per_key = bytes as f64 / f64::from(KEYS);
    Ok(Measured { what, p50_ns: part(50), p99_ns: part(99), bytes_per_key })
}

/// Bytes that this process has in memory.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("resident memory")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}
