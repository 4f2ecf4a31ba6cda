//! System calls that the kernel programs refused, each with the process that made it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use aya::maps::{MapData, RingBuf};
use guard_common::{DENIED_BIND, DENIED_BLOCKED, DENIED_CONNECT, DENIED_SEND};
use serde::Serialize;
use tokio::sync::mpsc;

use super::guard::Inner;
use super::{gates, owner, sys};

/// Refusals that wait for whoever records them. More are counted as lost.
const WAITING_MAX: usize = 1024;
/// How often the reader looks whether the guard still lives.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Size of `guard_common::Denied`.
const BYTES: usize = size_of::<guard_common::Denied>();

/// The ring buffer of refusals.
pub(super) type Ring = RingBuf<MapData>;

/// One system call that ended with EPERM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeniedCall {
    /// `bind`, `connect`, `send` (of a locked server), or `blocked` (a connect from a blocked cgroup).
    pub reason: &'static str,
    /// Where it wanted to connect, or what it wanted to bind.
    pub address: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Cookie of the network namespace.
    pub netns: u64,
    pub pid: u32,
    pub uid: u32,
    /// Chosen by the process; without control characters.
    pub comm: String,
    pub cgroup_id: u64,
    /// cgroup2 path; none if the process was gone when we looked.
    pub cgroup: Option<String>,
    /// The cgroup whose lock, block or hold it met.
    pub because: u64,
    /// Nanoseconds since boot.
    pub at: u64,
}

/// Starts to read refusals. Ends with the guard's last handle.
pub(super) fn spawn(ring: Ring, inner: Weak<Inner>) -> anyhow::Result<mpsc::Receiver<DeniedCall>> {
    let mut ring = sys::wait_for(ring).context("cannot wait for the kernel's refusals")?;
    let (tell, told) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        while inner.strong_count() > 0 && !tell.is_closed() {
            let ready = tokio::time::timeout(LOOK_EVERY, ring.readable_mut()).await;
            let Ok(Ok(mut ready)) = ready else { continue };
            let events = ready.get_inner_mut();
            while let Some(event) = events.next() {
                let Some(call) = parse(&event) else { continue };
                drop(event);
                if tell.try_send(call).is_err()
                    && let Some(inner) = inner.upgrade()
                {
                    inner.seen.denied_lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            ready.clear_ready();
        }
    });
    Ok(told)
}

/// Fields stand where `guard_common::Denied` has them.
fn parse(event: &[u8]) -> Option<DeniedCall> {
    let event: &[u8; BYTES] = event.try_into().ok()?;
    let long = |at: usize| array(event, at).map(u64::from_ne_bytes);
    let word = |at: usize| array(event, at).map(u32::from_ne_bytes);
    let address: [u8; 16] = array(event, 40)?;
    let port = u16::from_ne_bytes(array(event, 56)?);
    let [protocol, reason] = array(event, 58)?;
    let comm: [u8; 16] = array(event, 64)?;
    let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    let (pid, cgroup_id) = (word(32)?, long(16)?);
    let reason = match reason {
        DENIED_BIND => "bind",
        DENIED_CONNECT => "connect",
        DENIED_SEND => "send",
        DENIED_BLOCKED => "blocked",
        _ => return None,
    };
    Some(DeniedCall {
        reason,
        address: SocketAddr::new(IpAddr::from(Ipv6Addr::from(address)).to_canonical(), port),
        protocol,
        netns: long(8)?,
        pid,
        uid: word(36)?,
        comm: owner::printable(&String::from_utf8_lossy(comm)),
        cgroup_id,
        cgroup: owner::cgroup_path(pid).filter(|path| is_still(path, cgroup_id)),
        because: long(24)?,
        at: long(0)?,
    })
}

/// A process may have moved, or its number may be another's by now.
fn is_still(path: &str, id: u64) -> bool {
    let Ok(root) = super::host::cgroup2_root() else { return false };
    gates::id(&gates::directory(&root, path)).ok() == Some(id)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_as_it_was_written() {
        let mut event = vec![0; BYTES];
        event[0..8].copy_from_slice(&5_u64.to_ne_bytes());
        event[8..16].copy_from_slice(&6_u64.to_ne_bytes());
        event[16..24].copy_from_slice(&u64::MAX.to_ne_bytes());
        event[24..32].copy_from_slice(&8_u64.to_ne_bytes());
        event[32..36].copy_from_slice(&u32::MAX.to_ne_bytes());
        event[36..40].copy_from_slice(&1000_u32.to_ne_bytes());
        event[40..56].copy_from_slice(&std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets());
        event[56..58].copy_from_slice(&443_u16.to_ne_bytes());
        event[58..60].copy_from_slice(&[6, DENIED_CONNECT]);
        event[64..70].copy_from_slice(b"ev\x1bil\0");
        let call = parse(&event).unwrap();
        assert_eq!(call.address, "10.0.0.1:443".parse().unwrap());
        assert_eq!((call.reason, call.protocol, call.netns, call.uid), ("connect", 6, 6, 1000));
        assert_eq!((call.at, call.because, call.cgroup), (5, 8, None));
        assert_eq!(call.comm, "ev\\u{1b}il");
        assert_eq!(parse(&event[1..]), None);
        event[59] = 99;
        assert_eq!(parse(&event), None);
    }
}
