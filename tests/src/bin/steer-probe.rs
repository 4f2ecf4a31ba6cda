//! A guard with nothing above its kernel side, and the simplest server and client, for the steering tests.
//!
//! `steer-probe guard <guard.yaml>`: prints `{"ready":true}` when it serves, answers each steered connection with one line of
//! JSON, and obeys commands on its input, one a line: `status`, `prove`, `dial <port>`, `hold <port>`, `loop <port>`,
//! `denied`, `starve` (no more files may be opened), `feed`.
//! `steer-probe server <address>...`: answers each connection with `server` and echoes what comes. `shared` lets others bind
//! the port too (`SO_REUSEPORT`); `shadow` does so and answers `shadow`; `multipath` does so and speaks Multipath TCP.
//! `steer-probe stay <address>`: connects, is greeted, prints `{"ready":true}`, then `{"ended":true}` when the other side is gone.
//! `steer-probe worker <address>...`: a server that obeys commands on its input: `connect <address>`, `send <address>` (UDP),
//! `open <address>` and `echo` (keeps a connection and tries it), `listen <address>`.
//! `steer-probe aside <address>`: a server in a network namespace of one of its threads, whose id it tells for each line of input.
//! `steer-probe flicker <address>...`: a server that begins to listen and ends, again and again.
//! `steer-probe client <address>`: prints one line of JSON that says what it met.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use guard_tests::probe::{connect, serve};
use guard_tests::tricks;
use mcp_guard::accept::{Acceptor, Origin};
use mcp_guard::config::Config;
use mcp_guard::kernel::{Door, Guard, canary};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [canary::ARGUMENT] => return canary::child_main(),
        ["guard", config] => guard(config),
        ["server", addresses @ ..] => server(addresses, "server", Kind::Plain),
        ["shared", addresses @ ..] => server(addresses, "server", Kind::Shared),
        ["shadow", addresses @ ..] => server(addresses, "shadow", Kind::Shared),
        ["multipath", addresses @ ..] => server(addresses, "server", Kind::Multipath),
        ["worker", addresses @ ..] => worker(addresses),
        ["aside", address] => tricks::aside(address.parse().expect("an address")),
        ["flicker", addresses @ ..] => tricks::flicker(addresses),
        ["stay", address] => stay(address.parse().expect("an address")),
        ["client", address] => {
            println!("{}", connect(address.parse().expect("an address")));
            Ok(())
        }
        other => Err(anyhow::anyhow!("no such command: {other:?}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("steer-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How a server listens.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    /// Others may bind the port too.
    Shared,
    /// The same, with Multipath TCP.
    Multipath,
}

fn server(addresses: &[&str], word: &'static str, kind: Kind) -> anyhow::Result<()> {
    let listeners: Vec<TcpListener> = addresses
        .iter()
        .map(|address| {
            let address: SocketAddr = address.parse().with_context(|| format!("{address} is no address"))?;
            listen(address, kind).with_context(|| format!("cannot listen on {address}"))
        })
        .collect::<Result<_, _>>()?;
    println!("{}", json!({"ready": true}));
    let threads: Vec<_> =
        listeners.into_iter().map(|listener| std::thread::spawn(move || serve(&listener, word))).collect();
    for thread in threads {
        thread.join().ok();
    }
    Ok(())
}

fn worker(addresses: &[&str]) -> anyhow::Result<()> {
    let serve_at = |address: &str| -> anyhow::Result<()> {
        let listener = listen(address.parse()?, Kind::Plain)?;
        std::thread::spawn(move || serve(&listener, "server"));
        Ok(())
    };
    addresses.iter().try_for_each(|address| serve_at(address))?;
    println!("{}", json!({"ready": true}));
    let told = |result: std::io::Result<()>| match result {
        Ok(()) => json!({"done": true}),
        Err(error) => json!({"error": error.to_string()}),
    };
    let mut kept: Option<TcpStream> = None;
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let reply = match words.as_slice() {
            ["connect", address] => connect(address.parse()?),
            ["send", address] => {
                let address: SocketAddr = address.parse()?;
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                told(std::net::UdpSocket::bind(any)?.send_to(b"x", address).map(drop))
            }
            ["open", address] => {
                let stream = TcpStream::connect(address.parse::<SocketAddr>()?)?;
                stream.set_read_timeout(Some(Duration::from_secs(2)))?;
                BufReader::new(&stream).read_line(&mut String::new())?;
                kept = Some(stream);
                told(Ok(()))
            }
            ["echo"] => {
                let mut stream = kept.as_ref().context("nothing is open")?;
                told(std::io::Write::write_all(&mut stream, b"x").and_then(|()| stream.read_exact(&mut [0])))
            }
            ["listen", address] => {
                serve_at(address)?;
                told(Ok(()))
            }
            other => json!({"error": format!("no such command: {other:?}")}),
        };
        println!("{reply}");
    }
    Ok(())
}

fn stay(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.read_exact(&mut [0])?;
    println!("{}", json!({"ready": true}));
    while stream.read(&mut [0; 512]).is_ok_and(|read| read > 0) {}
    println!("{}", json!({"ended": true}));
    Ok(())
}

fn listen(address: SocketAddr, kind: Kind) -> std::io::Result<TcpListener> {
    let protocol = match kind {
        Kind::Plain => return TcpListener::bind(address),
        Kind::Shared => None,
        Kind::Multipath => Some(Protocol::MPTCP),
    };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, protocol)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

#[tokio::main]
async fn guard(config: &str) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let config: Config = serde_json::from_slice(&std::fs::read(config)?)?;
    let guard = Guard::start(Arc::new(config)).await?;
    let mut acceptor = Acceptor::new(&guard)?;
    tokio::spawn(async move {
        while let Some(accepted) = acceptor.accept().await {
            tokio::spawn(answer(accepted));
        }
    });
    println!("{}", json!({"ready": true}));
    let mut held = Vec::new();
    let mut refusals = guard.denied().context("nobody else takes them")?;
    let mut denied = Vec::new();
    let (sender, mut lines) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.blocking_send(line))
    });
    while let Some(line) = lines.recv().await {
        let words: Vec<&str> = line.split(' ').collect();
        let reply = match words.as_slice() {
            ["status"] => serde_json::to_value(guard.status())?,
            ["prove"] => serde_json::to_value(guard.prove().await)?,
            ["dial", port] => dial(&guard, port.parse()?).await,
            ["hold", port] => match guard.dialer().dial(door(&guard, port.parse()?)).await {
                Ok(stream) => {
                    held.push(stream);
                    json!({"held": held.len()})
                }
                Err(error) => json!({"error": error.to_string()}),
            },
            ["denied"] => {
                while let Ok(call) = refusals.try_recv() {
                    denied.push(serde_json::to_value(call)?);
                }
                json!(denied)
            }
            ["starve"] => json!({"files": files_max(0)?}),
            ["feed"] => json!({"files": files_max(1024)?}),
            ["loop", port] => {
                let target = SocketAddr::new([127, 0, 0, 1].into(), port.parse()?);
                tokio::task::spawn_blocking(move || unregistered(target)).await?
            }
            other => json!({"error": format!("no such command: {other:?}")}),
        };
        println!("{reply}");
    }
    Ok(())
}

async fn answer(mut accepted: mcp_guard::accept::Accepted) {
    let origin = match &accepted.origin {
        Origin::Local(process) => serde_json::to_value(process).expect("a process is JSON"),
        Origin::Neighbour(process) => json!({"neighbour": process}),
        Origin::UnknownLocal => json!("unknown-local"),
        Origin::Remote => json!("remote"),
    };
    let line = json!({
        "guard": true,
        "peer": accepted.peer,
        "original_dst": accepted.original_dst,
        "server": accepted.server.name,
        "origin": origin,
    });
    let _sent = accepted.io.write_all(format!("{line}\n").as_bytes()).await;
    // Stays open until the client goes, so that tests can hold it.
    let _ended = accepted.io.read(&mut [0; 64]).await;
}

/// A protected port in the first namespace that has it.
fn door(guard: &Guard, port: u16) -> Door {
    let namespaces = guard.status().namespaces;
    let first = namespaces.iter().find(|namespace| namespace.ports.contains_key(&port));
    Door { netns: first.map_or(0, |namespace| namespace.netns), port }
}

async fn dial(guard: &Guard, port: u16) -> Value {
    let dialled = tokio::time::timeout(Duration::from_secs(5), guard.dialer().dial(door(guard, port))).await;
    match dialled.unwrap_or_else(|late| Err(late.into())) {
        Ok(mut stream) => {
            let mut text = [0; 6];
            match tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut text)).await {
                Ok(Ok(_)) => json!({"answer": String::from_utf8_lossy(&text)}),
                other => json!({"error": format!("{other:?}")}),
            }
        }
        Err(error) => json!({"error": error.to_string(), "kind": format!("{:?}", error.kind())}),
    }
}

/// New files get numbers below `count` only.
fn files_max(count: u64) -> anyhow::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, count, hard)?;
    Ok(count)
}

/// Connects with a socket that was not registered.
fn unregistered(target: SocketAddr) -> Value {
    let Ok(stream) = TcpStream::connect(target) else { return json!({"error": "refused"}) };
    let mut text = String::new();
    let read = BufReader::new(&stream).take(64).read_line(&mut text);
    json!({"read": text, "ended": read.is_err() || text.is_empty()})
}
