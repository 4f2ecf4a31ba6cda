//! Tries what the guard claims, with real connections. Only when every claim holds is a host "protected".

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use super::canary::{self, Attempt, Outcome};
use super::guard::Inner;
use super::maps::lock;
use super::realm::{Door, Realm};
use super::{Dialer, address, diag, local, owner, sys};

/// How long the guard's own attempts may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// One sentence about the protection, and whether it is true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    pub name: String,
    pub holds: bool,
    /// What was seen.
    pub detail: String,
    /// It is about the server behind, which others may stop.
    #[serde(skip)]
    pub(super) of_server: bool,
}

impl Claim {
    fn new(name: String, result: anyhow::Result<String>) -> Self {
        match result {
            Ok(detail) => Self { name, holds: true, detail, of_server: false },
            Err(error) => Self { name, holds: false, detail: format!("{error:#}"), of_server: false },
        }
    }
}

/// Tries every claim about one namespace and remembers the answers.
pub(super) async fn prove(inner: &Arc<Inner>, realm: &Arc<Realm>) -> Vec<Claim> {
    inner.expected.expect(realm.netns.cookie, warnings(realm), Instant::now());
    let mut claims = blocking(inner, realm, |_inner, realm| vec![last(realm)]).await;
    claims.extend(blocking(inner, realm, canary_claims).await);
    claims.extend(blocking(inner, realm, loop_claims).await);
    for &port in realm.ports().keys() {
        if realm.servers.pinned(port).is_some() && !is_blocked(inner, realm, port) {
            let result = upstream(inner, realm, port).await;
            let name = format!("port {port}: the guard reaches the server itself");
            claims.push(Claim { of_server: true, ..Claim::new(name, result) });
        }
    }
    for claim in claims.iter_mut().filter(|_| !realm.netns.is_own) {
        claim.name = format!("{}: {}", realm.name, claim.name);
    }
    for claim in claims.iter().filter(|claim| !claim.holds) {
        tracing::error!(claim = claim.name, detail = claim.detail, "a claim does not hold");
    }
    lock(&realm.claims).clone_from(&claims);
    *lock(&realm.tried) = Instant::now();
    claims
}

/// Each private port is addressed once; each port is reached once as a loop, which a program and the acceptor tell.
fn warnings(realm: &Realm) -> usize {
    realm.listeners.addresses().len() + 2 * realm.ports().len()
}

/// Runs `f` in the namespace, on a thread that may wait.
async fn blocking(inner: &Arc<Inner>, realm: &Arc<Realm>, f: fn(&Inner, &Realm) -> Vec<Claim>) -> Vec<Claim> {
    let (inner, realm) = (Arc::clone(inner), Arc::clone(realm));
    let tried = tokio::task::spawn_blocking(move || realm.netns.run(|| f(&inner, &realm))).await;
    let failure = match tried {
        Ok(Ok(claims)) => return claims,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    vec![Claim { name: "the proof runs to its end".into(), holds: false, detail: failure, of_server: false }]
}

/// A program that runs after ours could undo our choice.
fn last(realm: &Realm) -> Claim {
    let look = || {
        let running =
            sys::sk_lookup_programs(&realm.netns).context("cannot list the programs of this namespace")?;
        let ours = realm.steer().id;
        ensure!(
            running.last().copied() == Some(ours),
            "programs {running:?} run here, ours is {ours}; another one may undo its choice"
        );
        Ok(format!("{} sk_lookup program(s), ours ({ours}) last", running.len()))
    };
    Claim::new("our program has the last word".into(), look())
}

/// What the canary tries and what must come of it.
fn canary_claims(inner: &Inner, realm: &Realm) -> Vec<Claim> {
    let mut wanted = Vec::new();
    for &port in realm.ports().keys() {
        let blocked = is_blocked(inner, realm, port);
        for ip in spellings(realm) {
            let target = SocketAddr::new(ip, port);
            let words = if blocked { "is blocked and refused" } else { "leads to the guard" };
            wanted.push((format!("{target} {words}"), Attempt::Tcp(target), !blocked));
        }
        for ip in loopbacks(realm) {
            let target = SocketAddr::new(ip, port);
            wanted.push((format!("UDP to {target} is refused"), Attempt::Udp(target), false));
        }
    }
    for target in realm.listeners.addresses() {
        wanted.push((format!("the guard's private port {target} is refused"), Attempt::Tcp(target), false));
    }
    let attempts: Vec<_> = wanted.iter().map(|(_, attempt, _)| *attempt).collect();
    let outcomes = match canary::send_out(&inner.canaries, &inner.cgroup_root, &attempts) {
        Ok(outcomes) if outcomes.len() == wanted.len() => outcomes,
        Ok(_) => vec![Outcome::Failed("the canary did not try it".into()); wanted.len()],
        Err(error) => vec![Outcome::Failed(format!("{error:#}")); wanted.len()],
    };
    let nonce = hex::encode(inner.canaries.nonce());
    wanted
        .into_iter()
        .zip(outcomes)
        .map(|((name, _, steered), outcome)| Claim::new(name, judge(steered, &nonce, outcome)))
        .collect()
}

fn judge(steered: bool, nonce: &str, outcome: Outcome) -> anyhow::Result<String> {
    match outcome {
        Outcome::Answered(bytes) if steered && bytes == nonce => Ok("the guard answered".into()),
        Outcome::Refused if !steered => Ok("connection refused".into()),
        Outcome::Answered(bytes) => bail!("something else answered ({} bytes)", bytes.len() / 2),
        Outcome::Failed(words) => bail!("{words}"),
        Outcome::Refused => bail!("connection refused"),
    }
}

fn loopbacks(realm: &Realm) -> Vec<IpAddr> {
    let mut ips = vec![Ipv4Addr::LOCALHOST.into()];
    if realm.listeners.v6.is_some() {
        ips.push(Ipv6Addr::LOCALHOST.into());
    }
    ips
}

/// The ways to write "this host".
fn spellings(realm: &Realm) -> Vec<IpAddr> {
    let mut ips = loopbacks(realm);
    if realm.listeners.v6.is_some() {
        ips.push(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into());
    }
    ips.push(Ipv4Addr::new(127, 0, 0, 9).into());
    let others = local::addresses().unwrap_or_default();
    let outside =
        |v4: bool| others.iter().find(move |ip| ip.is_ipv4() == v4 && !ip.is_loopback() && !link_local(**ip));
    ips.extend(outside(true));
    ips.extend(outside(false));
    ips
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// A socket of our own that is not registered must be steered like any other, and the acceptor must see that it is
/// our own.
fn loop_claims(inner: &Inner, realm: &Realm) -> Vec<Claim> {
    let try_port = |port: u16| {
        let before = inner.seen.loops.load(Ordering::Relaxed);
        let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let mut stream = TcpStream::connect_timeout(&target, ATTEMPT).context("cannot connect")?;
        stream.set_read_timeout(Some(ATTEMPT))?;
        // The acceptor closes it: an end or a reset. Anything else is somebody else's answer.
        let read = stream.read(&mut [0]);
        ensure!(
            matches!(read, Ok(0)) || read.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset),
            "something else answered"
        );
        ensure!(inner.seen.loops.load(Ordering::Relaxed) > before, "the acceptor did not see it");
        Ok("seen by the acceptor and closed".into())
    };
    let name = |port| format!("port {port}: an unregistered socket of the guard is steered and found out");
    let ports = realm.ports();
    let open = ports.keys().filter(|port| !is_blocked(inner, realm, **port));
    open.map(|&port| Claim::new(name(port), try_port(port))).collect()
}

/// By the kill switch.
fn is_blocked(inner: &Inner, realm: &Realm, port: u16) -> bool {
    realm.server(port).is_some_and(|server| inner.blocks.has_server(&server.name))
}

/// A connection of the guard must end at a socket of the very process whose listener is pinned.
async fn upstream(inner: &Arc<Inner>, realm: &Realm, port: u16) -> anyhow::Result<String> {
    let pinned = realm.servers.pinned(port).context("no server is pinned")?;
    let stream = tokio::time::timeout(
        ATTEMPT,
        Dialer::new(Arc::clone(inner)).dial(Door { netns: realm.netns.cookie, port }),
    )
    .await
    .context("no connection in time")?
    .context("cannot connect")?;
    let own = address::canonical(stream.local_addr()?);
    let end = Instant::now() + ATTEMPT;
    loop {
        let met = realm.netns.run(|| diag::connections(Some(port)))??;
        let found = met.into_iter().find(|socket| address::canonical(socket.remote) == own);
        match found {
            Some(socket) if owner::holds(pinned.pid, socket.inode) => {
                return Ok(format!("reached pid {} ({:?})", pinned.pid, pinned.comm));
            }
            // A server may accept in another process than the one that we know it by, but not for another user.
            Some(socket) if socket.inode != 0 => {
                let found = owner::of_sockets([socket.inode]).remove(&socket.inode);
                if let Some(process) = found {
                    ensure!(
                        process.cgroup == pinned.cgroup && socket.uid == pinned.uid,
                        "it reached pid {} ({:?})",
                        process.pid,
                        process.comm
                    );
                    return Ok(format!("reached pid {} ({:?})", process.pid, process.comm));
                }
            }
            _ => {}
        }
        ensure!(Instant::now() < end, "the server does not accept connections");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nonce_proves_steering_and_only_a_refusal_proves_a_closed_port() {
        assert!(judge(true, "aa", Outcome::Answered("aa".into())).is_ok());
        for outcome in [Outcome::Answered("bb".into()), Outcome::Answered(String::new()), Outcome::Refused] {
            assert!(judge(true, "aa", outcome).is_err());
        }
        assert!(judge(false, "aa", Outcome::Refused).is_ok());
        for outcome in [Outcome::Answered("aa".into()), Outcome::Failed("timed out".into())] {
            assert!(judge(false, "aa", outcome).is_err());
        }
    }
}
