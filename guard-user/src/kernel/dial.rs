//! Connects to a protected server as the guard.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustix::net::sockopt::socket_cookie;
use tokio::net::{TcpSocket, TcpStream};

use super::guard::Inner;
use super::realm::{Door, Realm};

/// Makes the guard's own connections. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    inner: Arc<Inner>,
}

impl Dialer {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
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
        self.connect(&realm, pinned.target()).await
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
