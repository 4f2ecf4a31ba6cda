//! A TCP client made of raw packets, for what no socket sends: odd sources, fragments, handshakes that stop halfway.

use std::fs;
use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::wire::{ACK, Exit, FIN, PSH, RST, SYN, Segment, Wire};
use super::{attacker_loop, tool};
use crate::probe::who;

/// How long an answer may take. What is dropped costs this time.
const PATIENCE: Duration = Duration::from_millis(1500);
const FIRST_SEQ: u32 = 1_000;

/// How, word by word: `device=NAME` and `from=ADDRESS:PORT`, both needed; `via=ADDRESS` sends by a packet socket to the
/// neighbour with this address, past the own host's routing; `fragments` cuts each packet into pieces of eight bytes.
fn open(target: &str, words: &[&str]) -> anyhow::Result<Wire> {
    let to: SocketAddrV4 = target.parse().with_context(|| format!("{target} is no IPv4 address"))?;
    let (mut device, mut from, mut exit, mut fragments) = (None, None, Exit::Ip, false);
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("device", name) => device = Some(name),
            ("from", address) => from = Some(address.parse::<SocketAddrV4>()?),
            ("via", address) => exit = Exit::Link(neighbour(address)?),
            ("fragments", "") => fragments = true,
            other => bail!("no way to craft: {other:?}"),
        }
    }
    let (device, from) = (device.context("device=")?, from.context("from=")?);
    mute(from.port())?;
    Ok(Wire::open(device, exit, fragments, from, to)?)
}

/// The own kernel knows nothing of the connection and would reset it.
fn mute(port: u16) -> anyhow::Result<()> {
    let rules = format!(
        "add table inet mute{port}; add chain inet mute{port} out {{ type filter hook output priority 0; }}; \
         add rule inet mute{port} out tcp sport {port} tcp flags & rst == rst drop"
    );
    let muted = tool("nft", &[&rules]);
    ensure!(muted["done"] == true, "nft: {}", muted["error"]);
    Ok(())
}

/// The hardware address of a host on the same link.
fn neighbour(address: &str) -> anyhow::Result<[u8; 6]> {
    // Makes this host ask for it.
    UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (address, 9))?;
    for _ in 0..50 {
        let table = fs::read_to_string("/proc/net/arp")?;
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(address));
        if let Some(hardware) = line.and_then(|line| line.split_whitespace().nth(3))
            && hardware != "00:00:00:00:00:00"
        {
            let bytes: Vec<u8> =
                hardware.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
            return <[u8; 6]>::try_from(bytes.as_slice())
                .with_context(|| format!("{hardware} is no hardware address"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("{address} is no neighbour")
}

/// Connects packet by packet and says who answered.
pub fn run(target: &str, words: &[&str]) -> anyhow::Result<Value> {
    let wire = open(target, words)?;
    Ok(match begin(&wire)? {
        Ok(answer) => finish(&wire, &answer)?,
        Err(met) => met,
    })
}

/// Stops before the last packet of the handshake; `finish` sends it.
pub fn half_open(target: &str, words: &[&str]) -> anyhow::Result<()> {
    let wire = open(target, words)?;
    let answer = match begin(&wire)? {
        Ok(answer) => answer,
        Err(met) => bail!("no half-open connection: {met}"),
    };
    attacker_loop(&json!({"ready": true}), |words| match words {
        ["finish"] => finish(&wire, &answer).unwrap_or_else(|error| json!({"error": error.to_string()})),
        other => json!({"error": format!("no such command: {other:?}")}),
    })
}

/// The answer to our SYN, or what was met instead.
fn begin(wire: &Wire) -> io::Result<Result<Segment, Value>> {
    wire.send(&Segment { seq: FIRST_SEQ, flags: SYN, ..Segment::default() })?;
    Ok(match wire.receive(PATIENCE)? {
        None => Err(json!({"error": "no answer"})),
        Some(answer) if answer.flags & RST != 0 => Err(json!({"refused": true})),
        Some(answer) if answer.flags & (SYN | ACK) == SYN | ACK => Ok(answer),
        Some(other) => Err(json!({"error": format!("not a handshake: flags {}", other.flags)})),
    })
}

fn finish(wire: &Wire, answer: &Segment) -> io::Result<Value> {
    let seq = FIRST_SEQ + 1;
    let mut ack = answer.seq.wrapping_add(1);
    wire.send(&Segment { seq, ack, flags: ACK, data: Vec::new() })?;
    let mut line = Vec::new();
    let met = loop {
        match wire.receive(PATIENCE)? {
            None => break json!({"error": "no greeting"}),
            Some(segment) if segment.flags & RST != 0 => break json!({"refused": true}),
            Some(segment) if segment.seq == ack => {
                ack = ack.wrapping_add(u32::try_from(segment.data.len()).expect("a short segment"));
                line.extend(segment.data);
                wire.send(&Segment { seq, ack, flags: ACK, data: Vec::new() })?;
                if line.contains(&b'\n') {
                    break who(&String::from_utf8_lossy(&line));
                }
            }
            // Sent again, since our packet crossed it.
            Some(_) => {}
        }
    };
    wire.send(&Segment { seq, ack, flags: FIN | PSH | ACK, data: Vec::new() })?;
    Ok(met)
}
