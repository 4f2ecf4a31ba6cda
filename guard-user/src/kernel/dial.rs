//! Connects to a protected server as the guard.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::socket_cookie;
use tokio::net::{TcpSocket, TcpStream};

use super::guard::Inner;
use super::realm::{Door, Realm};
use super::servers::Pinned;

/// How long, and how often, a finished handshake is waited for at the server's end. On one host it is finished there as
/// soon as here, unless the server's backlog is full.
const MEETING_PAUSE: Duration = Duration::from_millis(5);
const MEETING_TRIES_MAX: u32 = 200;

/// Makes the guard's own connections. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    inner: Arc<Inner>,
}

impl Dialer {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Cookie of the listening socket that is reached by `door` now.
    pub fn listener(&self, door: Door) -> Option<u64> {
        Some(self.inner.realm(door.netns)?.servers.pinned(door.port)?.cookie())
    }

    /// Whether that socket is still there. A server that was started again listens with another one, unless a service manager
    /// keeps it.
    pub fn has_listener(&self, door: Door, cookie: u64) -> bool {
        self.inner.realm(door.netns).is_some_and(|realm| realm.servers.has_pinned(door.port, cookie))
    }

    /// Connects to the pinned server behind `door`, with `TCP_NODELAY`. The time limit is the caller's.
    ///
    /// `NotConnected`: no recognised server listens there. `ConnectionRefused`: it stopped just now.
    pub async fn dial(&self, door: Door) -> io::Result<TcpStream> {
        let realm = self.inner.realm(door.netns);
        let found = realm.and_then(|realm| Some((realm.servers.pinned(door.port)?, realm)));
        let (pinned, realm) = found.ok_or_else(|| {
            let port = door.port;
            io::Error::new(
                io::ErrorKind::NotConnected,
                format!("no recognised server listens on port {port}; `mcp-guard status` tells which listeners are there"),
            )
        })?;
        let stream = self.connect(&realm, pinned.target()).await?;
        if pinned.multipath {
            meet(&realm, &pinned, &stream).await?;
        }
        Ok(stream)
    }

    /// A client of this host can take every port from which `target` is reached as usual: each of its connections keeps
    /// one, also when the guard has closed it. IPv4 loopback has addresses enough to go on from another one.
    async fn connect(&self, realm: &Arc<Realm>, target: SocketAddr) -> io::Result<TcpStream> {
        match self.connect_from(realm, None, target).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && target.is_ipv4() => {
                self.connect_from(realm, Some(any_loopback()?), target).await
            }
            result => result,
        }
    }

    async fn connect_from(
        &self,
        realm: &Arc<Realm>,
        source: Option<Ipv4Addr>,
        target: SocketAddr,
    ) -> io::Result<TcpStream> {
        let socket = socket_in(realm, target).await?;
        if let Some(source) = source {
            socket.bind((source, 0).into())?;
        }
        let registered = Registered::new(&self.inner, socket_cookie(&socket)?)?;
        let stream = socket.connect(target).await?;
        drop(registered);
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Asks whose listener took the connection. A stranger may listen on a more specific address, where the kernel looks
/// first; only a socket that the kernel assigns by itself rules that out.
async fn meet(realm: &Realm, pinned: &Pinned, stream: &TcpStream) -> io::Result<()> {
    let (server, own) = (stream.peer_addr()?, stream.local_addr()?);
    for _ in 0..MEETING_TRIES_MAX {
        if let Some(met) = realm.witness.listener_of(server, own)? {
            return if met == (pinned.uid, pinned.made_in) {
                Ok(())
            } else {
                tracing::error!(%server, uid = met.0, cgroup = met.1, "not the server listens there; nothing was sent to it");
                Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!(
                        "a socket of uid {} and another cgroup than the server's took the connection to {server}; \
                         `ss -ltnpe --cgroup sport = {}` shows whose",
                        met.0,
                        server.port()
                    ),
                ))
            };
        }
        tokio::time::sleep(MEETING_PAUSE).await;
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("the server at {server} takes no connection")))
}

/// A socket is for ever in the namespace in which it was made.
async fn socket_in(realm: &Arc<Realm>, target: SocketAddr) -> io::Result<TcpSocket> {
    let make = move || if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    if realm.netns.is_own {
        return make();
    }
    let realm = Arc::clone(realm);
    tokio::task::spawn_blocking(move || realm.netns.run(make)).await.map_err(io::Error::other)??
}

/// One of the addresses of IPv4 loopback, but not one that is likely to be used.
fn any_loopback() -> io::Result<Ipv4Addr> {
    let mut random = [0; 2];
    aws_lc_rs::rand::fill(&mut random).map_err(|_unspecified| io::Error::other("no random bytes"))?;
    let [high, low] = random;
    Ok(Ipv4Addr::new(127, 128 | high, low, 1))
}

/// A socket that may connect as the guard's; the permission ends with this value, also when the call is given up.
struct Registered<'a> {
    inner: &'a Inner,
    cookie: u64,
}

impl<'a> Registered<'a> {
    fn new(inner: &'a Inner, cookie: u64) -> io::Result<Self> {
        inner.maps.register(cookie).map_err(io::Error::other)?;
        Ok(Self { inner, cookie })
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.inner.maps.unregister(self.cookie) {
            tracing::warn!(%error, "a finished connection stays registered");
        }
    }
}
