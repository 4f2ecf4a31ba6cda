//! Listeners that behave as servers do not, as `steer-probe` runs them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::probe::serve;

/// How long a listener that comes and goes is there.
const THERE: Duration = Duration::from_millis(30);
/// How long it waits for a question.
const ASKED_WITHIN: Duration = Duration::from_millis(500);
/// And gone.
const GONE: Duration = Duration::from_millis(3);

/// Listens in a network namespace of one thread's own, and answers each line of input with that thread's id.
pub fn aside(address: SocketAddr) -> anyhow::Result<()> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let listening = || -> anyhow::Result<_> {
            unshare(CloneFlags::CLONE_NEWNET).context("a new network namespace")?;
            let lo = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
            ensure!(lo.success(), "`lo` stays down");
            Ok((TcpListener::bind(address)?, nix::unistd::gettid()))
        };
        match listening() {
            Ok((listener, tid)) => {
                let _main_is_there = tell.send(Ok(tid));
                serve(&listener, "server");
            }
            Err(error) => {
                let _main_is_there = tell.send(Err(error));
            }
        }
    });
    let tid = told.recv()??;
    println!("{}", json!({"ready": true}));
    for _line in io::stdin().lines().map_while(Result::ok) {
        println!("{}", json!({"tid": tid.as_raw()}));
    }
    Ok(())
}

/// Listens on each address for a moment, again and again, and answers whoever asks, as an MCP server does.
pub fn flicker(addresses: &[&str]) -> anyhow::Result<()> {
    println!("{}", json!({"ready": true}));
    let each: Vec<_> = addresses
        .iter()
        .map(|address| Ok(address.parse::<SocketAddr>()?))
        .map(|address| address.map(|address| thread::spawn(move || come_and_go(address))))
        .collect::<anyhow::Result<_>>()?;
    each.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
}

/// Who came may be gone, and may never ask.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ASKED_WITHIN))?;
    stream.read_exact(&mut [0])?;
    stream.write_all(b"server\n")
}

fn come_and_go(address: SocketAddr) -> anyhow::Result<()> {
    loop {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let end = Instant::now() + THERE;
        while Instant::now() < end {
            if let Ok((stream, _)) = listener.accept() {
                thread::spawn(move || answer(stream));
            }
            thread::sleep(Duration::from_millis(1));
        }
        drop(listener);
        thread::sleep(GONE);
    }
}
