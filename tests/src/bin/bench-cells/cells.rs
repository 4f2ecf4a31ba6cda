//! The cells: a server, maybe a proxy before it, and how the load reaches them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use guard_tests::ca::TestCa;
use guard_tests::daemon::{Daemon, Programs};
use guard_tests::process::{Fixture, Process, START_LIMIT, eventually, program};
use guard_tests::world::Netns;
use mcp_guard::config::Durability;
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::Kind;
use crate::usage::Usage;

pub(crate) mod streams;

/// How long nginx may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const PORT: u16 = 3001;
const NGINX_PORT: u16 = 3443;
/// The tool that the load calls, and who may.
const AGENT: &str = "support-agent";
const TOOL: &str = "read_customer";
/// A stateless call of about 600 bytes, as a client library sends it. `ID` becomes the number of the call.
const CALL: &str = include_str!("call.json");
/// The published rule sets, and a window that counts the calls of the load but never refuses one.
const POLICIES: [(&str, &str); 3] = [
    ("agents.yaml", include_str!("../../../../policies/examples/customer-ops/policies/agents.yaml")),
    ("seed.yaml", include_str!("../../../../policies/examples/customer-ops/policies/seed.yaml")),
    ("bench.yaml", include_str!("bench.yaml")),
];

/// One cell, running.
pub(crate) struct Cell {
    pub(crate) kind: Kind,
    // Dropped in this order: a guard unloads itself inside of its namespace.
    proxy: Proxy,
    url: String,
    headers: Vec<String>,
    ca: Option<PathBuf>,
    dir: TempDir,
    _server: Fixture,
    netns: Netns,
}

enum Proxy {
    None,
    Nginx { master: Master, _ca: TestCa },
    Guard(Box<Daemon>),
}

/// nginx's first process. It ends its workers when it is asked to end, and leaves them behind when it is killed.
struct Master(Process);

impl Drop for Master {
    fn drop(&mut self) {
        // An error says that it has ended already; after the limit it is killed.
        if self.0.signal(Signal::TERM).is_ok() {
            let _ended = self.0.wait_for_end(STOP_LIMIT);
        }
    }
}

/// What the load generator is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: u32,
    pub(crate) seconds: f64,
    pub(crate) rate: Option<f64>,
}

impl Cell {
    pub(crate) fn start(kind: Kind) -> anyhow::Result<Self> {
        let netns = Netns::new();
        let dir = tempfile::Builder::new().prefix("mcp-guard-bench-").tempdir()?;
        fs::write(dir.path().join("call.json"), CALL)?;
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let server = Fixture::start("static-upstream", Some(&netns.path()), listen, &[])?;
        let mut cell = Self {
            kind,
            proxy: Proxy::None,
            url: server.url(),
            headers: ["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call"].map(str::to_owned).into(),
            ca: None,
            netns,
            dir,
            _server: server,
        };
        cell.headers.push(format!("Mcp-Name: {TOOL}"));
        match kind {
            Kind::Direct | Kind::Connect | Kind::Streams | Kind::Velocity => {}
            Kind::Nginx => cell.start_nginx()?,
            Kind::GuardOs => cell.start_guard(Durability::Os)?,
            Kind::GuardDurable => cell.start_guard(Durability::Durable)?,
        }
        Ok(cell)
    }

    fn start_nginx(&mut self) -> anyhow::Result<()> {
        let ca = TestCa::new()?;
        let conf = self.dir.path().join("nginx.conf");
        fs::write(&conf, nginx_conf(self.dir.path(), &ca))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(self.dir.path()).arg("-c").arg(&conf).args(["-e", "error.log"]);
        command.stdin(Stdio::null());
        let netns = self.netns.path();
        let mut master = Process::spawn(Some(&netns), command)
            .map(Master)
            .context("nginx is the yardstick: apt-get install nginx-light, or leave its cell out")?;
        let listens = eventually(START_LIMIT, || {
            if let Some(status) = master.0.ended()? {
                anyhow::bail!("nginx ended with {status}");
            }
            Ok(self.netns.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, NGINX_PORT))).ok())
        })?;
        ensure!(listens.is_some(), "nginx does not listen");
        self.url = format!("https://localhost:{NGINX_PORT}/mcp");
        self.ca = Some(ca.ca());
        self.proxy = Proxy::Nginx { master, _ca: ca };
        Ok(())
    }

    fn start_guard(&mut self, durability: Durability) -> anyhow::Result<()> {
        let server = serde_json::from_value(json!({"name": "customer-ops", "port": PORT}))?;
        // The verifier is of no use here, and an optimised build of it would take its time.
        let programs = Programs { guard: program("mcp-guard")?, verifier: PathBuf::new() };
        let mut daemon = Daemon::new(programs, Some(&self.netns.path()), &[server], &POLICIES)?;
        daemon.config.audit.durability = durability;
        // All the load comes from one peer.
        let many = 16_384;
        daemon.config.limits = serde_json::from_value(json!({
            "connections_max": many, "connections_per_peer_max": many, "calls_in_flight_max": many,
            "calls_in_flight_per_agent_max": many,
        }))?;
        let credential = daemon.issue(AGENT)?;
        daemon.start()?;
        self.headers.extend([
            format!("X-Client-ID: {}", credential.client),
            format!("X-Profile-ID: {}", credential.profile),
            format!("Authorization: Bearer {}", credential.secret),
        ]);
        self.url = format!("https://localhost:{PORT}/mcp");
        self.ca = Some(daemon.ca());
        self.proxy = Proxy::Guard(Box::new(daemon));
        Ok(())
    }

    /// The folder of the guard's trail.
    pub(crate) fn trail(&self) -> Option<PathBuf> {
        match &self.proxy {
            Proxy::Guard(daemon) => Some(daemon.config.audit_dir()),
            Proxy::None | Proxy::Nginx { .. } => None,
        }
    }

    /// What the proxy alone has used so far; nothing without one.
    pub(crate) fn usage(&self) -> anyhow::Result<Option<Usage>> {
        let pid = match &self.proxy {
            Proxy::None => return Ok(None),
            Proxy::Nginx { master, .. } => master.0.pid(),
            Proxy::Guard(daemon) => daemon.pid().context("the guard has ended")?,
        };
        Usage::of_tree(pid).map(Some)
    }

    /// Puts the load on the cell, and gives the load generator's report. An answer that is no result of the tool is
    /// an error.
    pub(crate) fn load(&self, load: Load) -> anyhow::Result<serde_json::Value> {
        let mut command = Command::new(program("load-gen")?);
        command.args(["--url", &self.url, "--warm-up", "0"]);
        command.args(["--connections", &load.connections.to_string()]);
        command.args(["--seconds", &load.seconds.to_string()]);
        command.arg("--body").arg(self.dir.path().join("call.json"));
        for header in &self.headers {
            command.args(["--header", header]);
        }
        if let Some(ca) = &self.ca {
            command.arg("--ca").arg(ca);
        }
        if let Some(rate) = load.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let output = self.netns.run(|| command.output())?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {complaint}", self.kind.name());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(
            report["errors"] == 0 && report["requests"].as_u64().is_some_and(|requests| requests > 0),
            "{}: a run with errors is no measurement: {report}",
            self.kind.name()
        );
        Ok(report)
    }

    /// Waits for the first good answer: after its start a guard has to find its server.
    pub(crate) fn answers(&self) -> anyhow::Result<()> {
        let once = Load { connections: 1, seconds: 0.01, rate: None };
        let mut last = None;
        let answered = eventually(START_LIMIT, || match self.load(once) {
            Ok(_report) => Ok(Some(())),
            Err(error) => {
                last = Some(error);
                std::thread::sleep(Duration::from_millis(200));
                Ok(None)
            }
        })?;
        match (answered, last) {
            (None, Some(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// An ordinary TLS proxy: no buffering to disk, nothing logged per request, handshakes as rare as the load's.
fn nginx_conf(dir: &Path, ca: &TestCa) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("  {name}_temp_path {}/{name};\n", dir.display()))
        .concat();
    format!(
        "user root;\nworker_processes auto;\ndaemon off;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n{temporary}\
         \x20 access_log off;\n  keepalive_requests 10000000;\n\
         \x20 upstream server {{ server 127.0.0.1:{PORT}; keepalive 64; keepalive_requests 10000000; }}\n\
         \x20 server {{\n    listen 127.0.0.1:{NGINX_PORT} ssl;\n    server_name localhost;\n\
         \x20   ssl_certificate {certificate};\n    ssl_certificate_key {key};\n    ssl_protocols TLSv1.3;\n\
         \x20   location / {{\n      proxy_pass http://server;\n      proxy_http_version 1.1;\n\
         \x20     proxy_set_header Connection \"\";\n      proxy_set_header Host $http_host;\n    }}\n  }}\n}}\n",
        dir = dir.display(),
        certificate = ca.certificate().display(),
        key = ca.key().display(),
    )
}
