//! MCP servers and clients that others wrote: npm and Python packages, installed by `peers/install.sh`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::{Endpoint, Era};
use crate::process::{Process, START_LIMIT, eventually};

mod rust;

/// A client of the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// TypeScript SDK 1.x: sessions only
    TypeScript,
    /// Python SDK 2.x
    Python,
    /// rmcp
    Rust,
}

/// A table of `peers/steps.json`: which tools a server has for each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Everything,
    Conformance,
    /// The fixture again, with the tools that ask by "input required"
    ConformanceStateless,
    CustomerOps,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Conformance => "conformance",
            Self::ConformanceStateless => "conformance-stateless",
            Self::CustomerOps => "customer-ops",
        }
    }
}

/// One step's line. What it saw is in `seen`, by the names that the drivers use: `tools`, `text`, `is_error`, ...
#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    pub step: String,
    pub ok: bool,
    #[serde(flatten)]
    pub seen: Map<String, Value>,
}

/// What a driver is to do.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub table: Table,
    pub era: Era,
    /// The steps; all of the table if empty.
    pub steps: Vec<&'static str>,
    /// A call that must be refused, as `{tool, arguments}`, instead of the table's own.
    pub denied: Option<Value>,
}

impl Scenario {
    /// Every step of the table, in the era.
    pub fn all(table: Table, era: Era) -> Self {
        Self { table, era, steps: Vec::new(), denied: None }
    }
}

/// The folder with the packages. Run `peers/install.sh` first; this only checks.
pub fn folder() -> anyhow::Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    anyhow::ensure!(
        folder.join("node_modules/.peers").is_file(),
        "the npm and Python peers are not installed: run tests/peers/install.sh"
    );
    Ok(folder)
}

/// Runs the scenario against the endpoint and returns its steps. An error if a driver cannot run or a step failed.
/// The driver is in the network namespace of the calling thread.
///
/// # Panics
/// In a runtime: drivers block. Use `spawn_blocking` there.
pub fn drive(driver: Driver, endpoint: &Endpoint, scenario: &Scenario) -> anyhow::Result<Vec<Step>> {
    let steps = match driver {
        Driver::TypeScript | Driver::Python => drive_script(driver, endpoint, scenario)?,
        Driver::Rust => tokio::runtime::Runtime::new()?.block_on(rust::drive(endpoint, scenario))?,
    };
    if let Some(failed) = steps.iter().find(|step| !step.ok) {
        bail!("{driver:?}, step {}: {}", failed.step, Value::Object(failed.seen.clone()));
    }
    Ok(steps)
}

/// The machine's Node.js, or the one that `install.sh` put here because the machine's is too old.
pub fn node(folder: &Path) -> PathBuf {
    let own = folder.join(".node/node_modules/node/bin/node");
    if own.is_file() { own } else { "node".into() }
}

/// Runs a script of the folder by Node.js or Python, with the packages of the folder.
pub fn script(name: &str) -> anyhow::Result<Command> {
    let folder = folder()?;
    let is_python = Path::new(name).extension().is_some_and(|kind| kind == "py");
    let mut command = Command::new(if is_python { folder.join(".venv/bin/python") } else { node(&folder) });
    command.arg(folder.join(name));
    Ok(command)
}

fn drive_script(driver: Driver, endpoint: &Endpoint, scenario: &Scenario) -> anyhow::Result<Vec<Step>> {
    let folder = folder()?;
    let mut command = if driver == Driver::TypeScript {
        anyhow::ensure!(scenario.era != Era::Modern, "the TypeScript SDK 1.x knows sessions only");
        let mut script = Command::new(node(&folder));
        script.arg(folder.join("ts-client.mjs"));
        script
    } else {
        let mut python = Command::new(folder.join(".venv/bin/python"));
        python.arg(folder.join("py_client.py"));
        python.env("MCP_ERA", if scenario.era == Era::Legacy { "legacy" } else { "auto" });
        python
    };
    command.arg(&endpoint.url).arg(scenario.table.name()).args(&scenario.steps);
    let headers: Map<_, _> = endpoint.headers.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    command.env("MCP_HEADERS", Value::Object(headers).to_string());
    command.env_remove("NODE_EXTRA_CA_CERTS").env_remove("SSL_CERT_FILE").env_remove("MCP_DENIED");
    if let Some(ca) = &endpoint.ca {
        command.env("NODE_EXTRA_CA_CERTS", ca).env("SSL_CERT_FILE", ca);
    }
    if let Some(denied) = &scenario.denied {
        command.env("MCP_DENIED", denied.to_string());
    }
    command.stdin(Stdio::null());
    let output = command.output().context("cannot start the driver")?;
    let lines = String::from_utf8(output.stdout)?;
    let steps: Vec<Step> = lines
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| format!("the driver printed: {lines}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(!steps.is_empty(), "the driver did nothing: {complaint}");
    anyhow::ensure!(
        output.status.success() || steps.iter().any(|step| !step.ok),
        "the driver ended with {}: {complaint}",
        output.status
    );
    Ok(steps)
}

/// The npm server with every feature of the session era, on a port of its own.
#[derive(Debug)]
pub struct Everything {
    pub process: Process,
    pub address: SocketAddr,
}

impl Everything {
    /// Starts it on `port`, or on a free one, in the network namespace of the calling thread, and waits until it
    /// listens. It listens on all addresses.
    pub fn start(port: Option<u16>) -> anyhow::Result<Self> {
        Self::speaking("streamableHttp", port)
    }

    /// The same with another transport: `sse` is that of 2024-11-05.
    pub fn speaking(transport: &str, port: Option<u16>) -> anyhow::Result<Self> {
        let folder = folder()?;
        let port = match port {
            Some(port) => port,
            // Free now; somebody else may take it before the server does, which then says so and ends.
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port(),
        };
        let mut command = Command::new(node(&folder));
        command.arg(folder.join("node_modules/@modelcontextprotocol/server-everything/dist/index.js"));
        command.arg(transport).env("PORT", port.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::spawn(None, command)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let up = eventually(START_LIMIT, || {
            if let Some(status) = process.ended()? {
                bail!("server-everything ended with {status}");
            }
            Ok(TcpStream::connect(address).ok())
        })?;
        up.context("server-everything does not listen")?;
        Ok(Self { process, address })
    }

    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }
}
