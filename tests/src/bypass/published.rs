//! What publishes a container's port on its host: a relay in user space.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use serde_json::json;

/// Relays every connection to `listen` on to `target`, as docker-proxy does.
pub fn relay(listen: &str, target: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)?;
    println!("{}", json!({"ready": true}));
    for stream in listener.incoming() {
        let stream = stream?;
        let target = target.to_owned();
        thread::spawn(move || {
            if let Ok(onward) = TcpStream::connect(&target) {
                let _ended = both_ways(&stream, &onward);
            }
        });
    }
    Ok(())
}

fn both_ways(one: &TcpStream, other: &TcpStream) -> io::Result<()> {
    let copy = |mut from: &TcpStream, mut to: &TcpStream| {
        let copied = io::copy(&mut from, &mut to);
        // The other side may be gone already.
        let _ended = to.shutdown(Shutdown::Write);
        copied
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(other, one));
        copy(one, other)
    })?;
    Ok(())
}
