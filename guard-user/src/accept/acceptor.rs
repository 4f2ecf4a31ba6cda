//! The accept loop. It runs in a task of its own, so that canaries are answered whatever the rest of the guard does.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use guard_common::Who;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::places::{Peer, Place, Places};
use crate::attendance::{Dismissal, Guest};
use crate::config::Server;
use crate::kernel::{Door, Guard, Inner, Local, Realm, Realms, Witness, canonical};
use crate::service::{Beat, Pulse};
use crate::types::LocalProcess;

/// How long to wait after an `accept` that failed for want of files or memory.
const BACKOFF: Duration = Duration::from_millis(50);

/// How often the acceptor without connections comes round, to show that it would take one.
const TURN: Duration = Duration::from_millis(500);

/// Between two keep-alive probes to a silent client.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// A connection that was steered to the guard.
#[derive(Debug)]
pub struct Accepted {
    pub io: TcpStream,
    /// The client's address; IPv4 also when it was written v4-mapped.
    pub peer: SocketAddr,
    /// Where the client meant to go.
    pub original_dst: SocketAddr,
    /// The protected server on that port.
    pub server: Arc<Server>,
    /// The port, and the namespace that it is in.
    pub door: Door,
    pub origin: Origin,
    /// Its place in the counts of connections.
    pub guest: Arc<Guest>,
    /// Tells more of a local client.
    pub witness: Witness,
    /// To be kept as long as the connection lives: one of `limits.connections_max`.
    pub place: Place,
}

/// Where a client is, as far as the kernel can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A process of this host.
    Local(LocalProcess),
    /// A process of this host in the guard's own network namespace, which connected into another one. Between the two
    /// others may speak in its place: it is named, and no more.
    Neighbour(LocalProcess),
    /// A peer on another host, or in another network namespace of this one.
    Remote,
    /// A process of this host, but the kernel's record of it is missing. Never to be taken for a known one.
    UnknownLocal,
}

/// Yields the steered connections of all protected ports.
pub struct Acceptor {
    accepted: mpsc::Receiver<Accepted>,
    follower: AbortHandle,
    beat: Beat,
    inner: Arc<Inner>,
    is_over: Arc<AtomicBool>,
}

impl Acceptor {
    /// Starts to accept. To be called inside a tokio runtime, once per guard.
    pub fn new(guard: &Guard) -> anyhow::Result<Self> {
        let inner = guard.inner();
        let limits = &inner.config.limits;
        let max = limits.connections_max;
        // A queued connection holds a place, so the queue is never full.
        let (sender, accepted) = mpsc::channel(max.max(1));
        let is_over = Arc::<AtomicBool>::default();
        let mut doors = Doors {
            inner: Arc::clone(inner),
            places: Places::new(max, limits.connections_per_peer_max),
            sender,
            is_over: Arc::clone(&is_over),
            open: BTreeMap::new(),
        };
        let mut realms = inner.realms.subscribe();
        let now = Arc::clone(&realms.borrow_and_update());
        doors.follow(&now)?;
        let beat = Beat::default();
        let moving = beat.clone();
        let follower = tokio::spawn(async move {
            let mut turn = tokio::time::interval(TURN);
            turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = turn.tick() => {
                        if doors.have_moved() {
                            moving.beat();
                        }
                        continue;
                    }
                    changed = realms.changed() => if changed.is_err() { return },
                }
                let now = Arc::clone(&realms.borrow_and_update());
                if let Err(error) = doors.follow(&now) {
                    tracing::error!("connections to a namespace are not accepted: {error:#}");
                }
            }
        });
        Ok(Self { accepted, follower: follower.abort_handle(), beat, inner: Arc::clone(inner), is_over })
    }

    /// Moves at least every [`TURN`] while connections can be accepted.
    pub fn beat(&self) -> &Beat {
        &self.beat
    }

    /// Accepts nothing more. Connections wait at the listeners.
    pub fn close(&self) {
        self.follower.abort();
    }

    /// From here on new connections are refused by the kernel, and those whose handshake is under way are closed as
    /// soon as they arrive.
    pub fn turn_away(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Err(error) = self.inner.refuse_new() {
            tracing::warn!("new connections are closed instead of refused: {error:#}");
        }
    }

    /// The next connection. `None`: the accept loop has ended.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.accepted.recv().await
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// The accept loops of one namespace.
#[derive(Default)]
struct Loops {
    tasks: JoinSet<()>,
    pulse: Pulse,
}

/// The accept loops of all namespaces.
struct Doors {
    inner: Arc<Inner>,
    places: Places,
    sender: mpsc::Sender<Accepted>,
    is_over: Arc<AtomicBool>,
    /// By the namespace's cookie. An entry's end is the end of its loops.
    open: BTreeMap<u64, Loops>,
}

impl Doors {
    /// Whether each loop has come round since all of its namespace had.
    fn have_moved(&mut self) -> bool {
        // Each is looked at: a look is where the next one begins.
        let standing =
            self.open.values_mut().filter_map(|loops| (!loops.pulse.standing().is_empty()).then_some(()));
        standing.count() == 0
    }

    /// Opens what is new and closes what is gone.
    fn follow(&mut self, realms: &Realms) -> anyhow::Result<()> {
        self.open.retain(|netns, _| realms.contains_key(netns));
        for (netns, realm) in realms.iter() {
            if let Entry::Vacant(vacant) = self.open.entry(*netns) {
                let mut loops = Loops::default();
                for listener in [Some(&realm.listeners.v4), realm.listeners.v6.as_ref()].into_iter().flatten()
                {
                    let listener = listener.try_clone().context("cannot copy a listener")?;
                    let listener = TcpListener::from_std(listener).context("cannot wait on a listener")?;
                    let sorter = Sorter {
                        inner: Arc::clone(&self.inner),
                        realm: Arc::clone(realm),
                        local: Local::default(),
                        places: self.places.clone(),
                        sender: self.sender.clone(),
                        pulse: Beat::default(),
                        is_over: Arc::clone(&self.is_over),
                    };
                    loops.pulse.watch("an accept loop", sorter.pulse.clone());
                    loops.tasks.spawn(sorter.run(listener));
                }
                vacant.insert(loops);
            }
        }
        Ok(())
    }
}

/// Accepts what comes to one listener.
struct Sorter {
    inner: Arc<Inner>,
    realm: Arc<Realm>,
    local: Local,
    places: Places,
    sender: mpsc::Sender<Accepted>,
    pulse: Beat,
    is_over: Arc<AtomicBool>,
}

impl Sorter {
    async fn run(mut self, listener: TcpListener) {
        let mut turn = tokio::time::interval(TURN / 2);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.pulse.beat();
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = turn.tick() => continue,
            };
            match accepted {
                Ok((io, peer)) => {
                    if let Some(accepted) = self.sort(io, peer)
                        && self.sender.send(accepted).await.is_err()
                    {
                        return;
                    }
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept; trying again in {} ms", BACKOFF.as_millis());
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    /// Handles what is not for the upper stages: canaries, loops, strays, and connections above the limit.
    fn sort(&mut self, io: TcpStream, peer: SocketAddr) -> Option<Accepted> {
        let seen = &self.inner.seen;
        let peer = canonical(peer);
        let Some((original_dst, server)) =
            io.local_addr().ok().map(canonical).and_then(|dst| Some((dst, self.realm.server(dst.port())?)))
        else {
            bump(&seen.stray);
            return None;
        };
        let door = Door { netns: self.realm.netns.cookie, port: original_dst.port() };
        self.inner.attendance.enter(door.netns, door.port);
        if self.is_over.load(Ordering::SeqCst) {
            self.inner.attendance.dismiss(&server.name, Dismissal::TurnedAway);
            return None;
        }
        let who = self.inner.maps.take_who(self.realm.netns.cookie, peer, original_dst);
        if let Some(who) = who {
            // By cgroup, since process ids differ when the guard runs in a pid namespace.
            if who.cgroup == self.inner.cgroup {
                bump(&seen.loops);
                self.inner.attendance.dismiss(&server.name, Dismissal::Loop);
                if self.inner.expected.take(Instant::now()) {
                    tracing::debug!(%peer, %original_dst, "the guard's own proof came back to it");
                } else {
                    tracing::warn!(%peer, %original_dst, "a connection of the guard came back to it and was closed");
                }
                return None;
            }
            if self.inner.canaries.knows(who.pid) {
                bump(&seen.canaries);
                self.inner.attendance.dismiss(&server.name, Dismissal::Canary);
                answer_canary(io, self.inner.canaries.nonce());
                return None;
            }
        }
        let origin = match who {
            Some(who) => Origin::Local(process(&who)),
            None if self.is_local(peer, original_dst) => Origin::UnknownLocal,
            None => match self.next_door(peer, original_dst) {
                Some(who) => Origin::Neighbour(process(&who)),
                None => Origin::Remote,
            },
        };
        let whose = match &origin {
            Origin::Local(process) => Peer::User(process.uid),
            Origin::UnknownLocal => Peer::UnknownLocal,
            Origin::Neighbour(_) | Origin::Remote => Peer::at(peer.ip()),
        };
        let Some(place) = self.places.take(whose) else {
            bump(&self.inner.seen.over_limit);
            self.inner.attendance.dismiss(&server.name, Dismissal::OverLimit);
            return None;
        };
        let witness = match origin {
            Origin::Neighbour(_) => self.inner.witness.clone(),
            _ => self.realm.witness.clone(),
        };
        if let Err(error) = tune(&io, Duration::from_secs(self.inner.config.limits.stall_seconds)) {
            // The client is gone, or the kernel lacks an option: not a reason to refuse.
            tracing::debug!(%error, "a connection keeps its default options");
        }
        let guest = self.inner.attendance.admit(&server.name);
        Some(Accepted { io, peer, original_dst, server, door, origin, guest, witness, place })
    }

    /// The kernel's record of a client in the guard's own namespace; there is none where that is the server's.
    fn next_door(&self, peer: SocketAddr, original_dst: SocketAddr) -> Option<Who> {
        let own = self.inner.own.cookie;
        (own != self.realm.netns.cookie).then(|| self.inner.maps.take_who(own, peer, original_dst))?
    }

    fn is_local(&mut self, peer: SocketAddr, own: SocketAddr) -> bool {
        let realm = Arc::clone(&self.realm);
        self.local.is_local(peer.ip(), own.ip(), Instant::now(), move || realm.addresses())
    }
}

/// Small answers leave at once; a client that stopped reading, or whose host is gone, does not hold its place for ever.
fn tune(io: &TcpStream, stall: Duration) -> io::Result<()> {
    io.set_nodelay(true)?;
    let socket = SockRef::from(io);
    socket.set_tcp_user_timeout(Some(stall))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(stall).with_interval(KEEPALIVE_INTERVAL))
}

fn answer_canary(mut io: TcpStream, nonce: [u8; crate::kernel::canary::NONCE_BYTES]) {
    tokio::spawn(async move {
        // The canary tells what it got; there is nobody to tell about a failure here.
        let _sent = io.write_all(&nonce).await;
    });
}

fn process(who: &Who) -> LocalProcess {
    let comm = who.comm.split(|byte| *byte == 0).next().unwrap_or_default();
    LocalProcess {
        pid: who.pid,
        uid: who.uid,
        gid: who.gid,
        cgroup: who.cgroup,
        comm: String::from_utf8_lossy(comm).into_owned(),
        cookie: who.cookie,
        connected_at: who.at,
    }
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// `accept` also reports errors of the connection that it was about to hand out.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
        || error.raw_os_error() == Some(nix::libc::EPROTO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comm_ends_at_its_zero_and_may_hold_any_bytes() {
        let mut who = Who {
            pid: 1,
            uid: 2,
            gid: 3,
            zero: 0,
            cgroup: 4,
            cookie: 5,
            at: 6,
            comm: *b"node\0garbage\0\0\0\0",
        };
        assert_eq!(process(&who).comm, "node");
        who.comm = [0xff; 16];
        assert_eq!(process(&who).comm.chars().count(), 16);
    }

    #[test]
    fn want_of_files_is_not_an_error_of_one_connection() {
        assert!(!is_about_one_connection(&io::Error::from_raw_os_error(nix::libc::EMFILE)));
        assert!(is_about_one_connection(&io::Error::from_raw_os_error(nix::libc::ECONNABORTED)));
    }
}
