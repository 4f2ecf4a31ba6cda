//! Servers with a lock-down, and places to which they may or may not connect.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::probe::serve;
use crate::world::{Process, World};

/// How long a change may take to be seen. Only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Servers that anybody may reach: port 4001 of the host, port 4003 of the other one.
pub fn destinations(world: &World) {
    for (netns, address) in [(&world.host, "[::]:4001"), (&world.remote, "[::]:4003")] {
        let listener = netns.run(|| TcpListener::bind(address).expect("a listener"));
        thread::spawn(move || serve(&listener, "server"));
    }
}

/// Waits until the guard has pinned this server at port 3001.
pub fn pinned(guard: &mut Process, server: &Process) -> Value {
    guard.ask_until("status", |status| {
        status["namespaces"][0]["ports"]["3001"]["pinned"][0]["pid"].as_u64() == Some(server.pid().into())
    })
}

/// Whether a server gets there. It is let through or refused; anything else is no answer.
pub fn reaches(server: &mut Process, address: &str) -> bool {
    let met = server.ask(&format!("connect {address}"));
    if met["server"] == true {
        return true;
    }
    assert!(met["error"].to_string().contains("Operation not permitted"), "{address}: {met}");
    false
}

/// Waits until it does, or does not.
pub fn wait_until(server: &mut Process, address: &str, reached: bool) {
    eventually(&format!("{address} is to be reached: {reached}"), || reaches(server, address) == reached);
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in {PATIENCE:?}: {what}");
        thread::sleep(LOOK_EVERY);
    }
}
