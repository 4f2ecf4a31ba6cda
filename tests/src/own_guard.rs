//! A guard for the time of one client: before a server that is there already, at the port that it has, so that the
//! server's URL stays what it was.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use mcp_guard::config::Server;
use serde_json::json;

use crate::daemon::{Daemon, Programs};

/// In the directory that all share: the suite starts all its clients at once, and two guards in one network would each say
/// that another program may undo what theirs does.
const TURN: &str = "turn";

/// Paths of the suite's servers that are their own authorization servers, and one where a document of theirs is.
const OAUTH_PATHS: [&str; 7] = [
    "/authorize",
    "/token",
    "/register",
    "/oauth/authorize",
    "/oauth/token",
    "/oauth/register",
    "/custom/metadata/location.json",
];
const TOOL: &str = "test-tool";

/// A guard that lets this process and its kin in by what they are.
#[derive(Debug)]
pub struct OwnGuard {
    daemon: Daemon,
    dir: PathBuf,
    /// Held while the guard runs.
    _turn: File,
}

impl OwnGuard {
    /// Waits for its turn and stands before the server at `url` when it returns.
    pub fn start(dir: &Path, url: &str) -> anyhow::Result<Self> {
        let turn = turn(dir)?;
        let (_, rest) = url.split_once("://").context("no URL")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let port: u16 = authority.rsplit(':').next().unwrap_or_default().parse().context("no port")?;
        let server: Server = serde_json::from_value(json!({
            "name": "scenario",
            "port": port,
            "path": format!("/{path}"),
            "plaintext": "loopback",
            "forward_authorization": true,
            "oauth_paths": OAUTH_PATHS,
        }))?;
        let policy = json!({
            "agents": {"suite": {"client_id": "suite", "needs": ["process"], "process": {"uid": 0}}},
            "intents": {"suite.use": [{"server": "scenario", "tool": TOOL}]},
            "policies": [{"intent": "suite.use", "agents": ["suite"], "decision": "allow"}],
        });
        let policy = format!("{policy:#}");
        let mut daemon = Daemon::new(Programs::built()?, None, &[server], &[("policy.yaml", &policy)])?;
        daemon.start()?;
        Ok(Self { daemon, dir: dir.to_owned(), _turn: turn })
    }

    /// Ends it and tells what it saw.
    pub fn finish(mut self, scenario: &str) -> anyhow::Result<()> {
        self.daemon.stop()?;
        let ledger = self.daemon.ledger()?;
        let calls: Vec<_> = ledger.of_kind("call").collect();
        let file = self.dir.join(format!("{}.json", scenario.replace('/', "-")));
        Ok(fs::write(file, serde_json::to_vec(&calls)?)?)
    }
}

/// Waits until no other guard runs.
fn turn(dir: &Path) -> anyhow::Result<File> {
    let file = File::create(dir.join(TURN))?;
    file.lock()?;
    Ok(file)
}
