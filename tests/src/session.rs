//! Sessions of real clients that are told what to do step by step, so that a test can do something in between.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::Context;
use rmcp::ServiceError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::client::{Client, Endpoint, Era, said};
use crate::peers;
use crate::process::{Process, START_LIMIT};

/// The SDKs, and the eras in which each of them is used.
pub const PEERS: [Peer; 8] = [
    Peer { sdk: Sdk::TypeScript1, era: Era::Legacy },
    Peer { sdk: Sdk::TypeScript2, era: Era::Legacy },
    Peer { sdk: Sdk::TypeScript2, era: Era::Auto },
    Peer { sdk: Sdk::Python1, era: Era::Legacy },
    Peer { sdk: Sdk::Python2, era: Era::Legacy },
    Peer { sdk: Sdk::Python2, era: Era::Auto },
    Peer { sdk: Sdk::Rust, era: Era::Legacy },
    Peer { sdk: Sdk::Rust, era: Era::Auto },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    /// 1.x, which knows sessions only
    TypeScript1,
    TypeScript2,
    /// 1.x, which knows sessions only
    Python1,
    Python2,
    /// rmcp
    Rust,
}

/// A client library, and whether it asks for a stateless server first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub sdk: Sdk,
    pub era: Era,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sdk = match self.sdk {
            Sdk::TypeScript1 => "ts1",
            Sdk::TypeScript2 => "ts2",
            Sdk::Python1 => "py1",
            Sdk::Python2 => "py2",
            Sdk::Rust => "rmcp",
        };
        let era = if self.era == Era::Legacy { "legacy" } else { "auto" };
        f.pad(&format!("{sdk} {era}"))
    }
}

/// What a client is to do.
#[derive(Debug, Clone, Copy)]
pub enum Task<'a> {
    Tool(&'a str),
    /// A tool with one argument: its name, and a text
    ToolWith(&'a str, (&'a str, &'a str)),
    Prompt(&'a str),
    Resource(&'a str),
    /// Completion of an argument of a prompt
    Complete(&'a str),
    /// A request with a method that no SDK knows
    Method(&'a str),
}

/// What the client library tells the program that uses it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Told {
    Result {
        ok: Seen,
    },
    /// A JSON-RPC error
    Error {
        code: i64,
        text: String,
    },
    /// Anything else, such as an error of the transport
    Broken {
        broken: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Seen {
    /// `isError` of a tool's result
    pub error: bool,
    pub text: String,
}

/// A session that is open until it is dropped.
pub struct Session {
    /// The revision that client and server agreed on.
    pub version: String,
    way: Way,
}

enum Way {
    Script { stdin: ChildStdin, lines: Receiver<String>, _process: Process },
    Rust { client: Client, runtime: Runtime },
}

impl Session {
    /// Connects, from the network of the calling thread.
    pub fn open(peer: Peer, endpoint: &Endpoint) -> anyhow::Result<Self> {
        if peer.sdk == Sdk::Rust {
            let runtime = Runtime::new()?;
            let client = runtime.block_on(Client::connect(endpoint, peer.era))?;
            let version = client.version().context("no revision was agreed on")?;
            return Ok(Self { version, way: Way::Rust { client, runtime } });
        }
        let way = script(peer, endpoint)?;
        match hear(&way)? {
            Told::Result { ok } => Ok(Self { version: ok.text, way }),
            other => anyhow::bail!("{peer} did not connect: {other:?}"),
        }
    }

    /// Does one thing, to its end.
    pub fn ask(&mut self, task: Task<'_>) -> anyhow::Result<Told> {
        match &mut self.way {
            Way::Script { stdin, .. } => writeln!(stdin, "{}", line(task))?,
            Way::Rust { client, runtime } => return Ok(runtime.block_on(rust(client, task))),
        }
        hear(&self.way)
    }
}

fn line(task: Task<'_>) -> Value {
    match task {
        Task::Tool(name) => json!({"do": "tool", "name": name, "arguments": {}}),
        Task::ToolWith(name, (key, text)) => json!({"do": "tool", "name": name, "arguments": {key: text}}),
        Task::Prompt(name) => json!({"do": "prompt", "name": name}),
        Task::Resource(uri) => json!({"do": "resource", "uri": uri}),
        Task::Complete(prompt) => json!({"do": "complete", "prompt": prompt}),
        Task::Method(method) => json!({"do": "method", "method": method}),
    }
}

fn script(peer: Peer, endpoint: &Endpoint) -> anyhow::Result<Way> {
    let folder = peers::folder()?;
    let mut command = match peer.sdk {
        Sdk::TypeScript1 | Sdk::TypeScript2 => {
            let mut node = Command::new(peers::node(&folder));
            node.arg(folder.join("ts-session.mjs"));
            node.arg(if peer.sdk == Sdk::TypeScript1 { "1" } else { "2" });
            node
        }
        _ => {
            let venv = if peer.sdk == Sdk::Python1 { ".venv1" } else { ".venv" };
            let mut python = Command::new(folder.join(venv).join("bin/python"));
            python.arg(folder.join("py_session.py"));
            python
        }
    };
    let headers: Map<_, _> = endpoint.headers.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
    command.arg(&endpoint.url).env("MCP_HEADERS", Value::Object(headers).to_string());
    command.env("MCP_ERA", if peer.era == Era::Legacy { "legacy" } else { "auto" });
    command.env_remove("NODE_EXTRA_CA_CERTS").env_remove("SSL_CERT_FILE");
    if let Some(ca) = &endpoint.ca {
        command.env("NODE_EXTRA_CA_CERTS", ca).env("SSL_CERT_FILE", ca);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Process::spawn(None, command)?;
    let (stdin, stdout) = process.pipes().context("both are pipes")?;
    let (tell, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // The session may be over; then nobody wants the line.
            let _ = tell.send(line);
        }
    });
    Ok(Way::Script { stdin, lines, _process: process })
}

fn hear(way: &Way) -> anyhow::Result<Told> {
    let Way::Script { lines, .. } = way else { anyhow::bail!("no script") };
    let line = lines.recv_timeout(START_LIMIT).context("the client says nothing")?;
    serde_json::from_str(&line).with_context(|| format!("the client said {line}"))
}

async fn rust(client: &Client, task: Task<'_>) -> Told {
    let told = match task {
        Task::Tool(name) => client.call(name, json!({})).await.map(|result| (result.is_error, said(&result))),
        Task::ToolWith(name, (key, text)) => {
            client.call(name, json!({key: text})).await.map(|result| (result.is_error, said(&result)))
        }
        Task::Prompt(name) => client.prompt(name).await.map(|text| (None, text)),
        Task::Resource(uri) => client.read(uri).await.map(|text| (None, text)),
        Task::Complete(prompt) => client.complete(prompt).await.map(|text| (None, text)),
        Task::Method(method) => client.custom(method).await.map(|text| (None, text)),
    };
    match told {
        Ok((error, text)) => Told::Result { ok: Seen { error: error == Some(true), text } },
        Err(ServiceError::McpError(error)) => {
            Told::Error { code: error.code.0.into(), text: error.message.into_owned() }
        }
        Err(error) => Told::Broken { broken: error.to_string() },
    }
}
