//! Connects to a protected server as the guard.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustix::net::sockopt::socket_cookie;
use tokio::net::{TcpSocket, TcpStream};

use super::guard::Inner;

/// Makes the guard's own connections. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    inner: Arc<Inner>,
}

impl Dialer {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Connects to the pinned server on `port`, with `TCP_NODELAY`. The time limit is the caller's.
    ///
    /// `NotConnected`: no recognised server listens there. `ConnectionRefused`: it stopped just now.
    pub async fn dial(&self, port: u16) -> io::Result<TcpStream> {
        let pinned = self.inner.servers.pinned(port).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotConnected,
                format!("no recognised server listens on port {port}; `mcp-guard status` tells which listeners are there"),
            )
        })?;
        self.connect(pinned.target()).await
    }

    async fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        let registered = Registered::new(&self.inner, socket_cookie(&socket)?)?;
        let stream = socket.connect(target).await?;
        drop(registered);
        stream.set_nodelay(true)?;
        Ok(stream)
    }
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
