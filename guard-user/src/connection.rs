//! Who is on the other end of a client connection: what stays true for all of its requests.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::accept::Origin;
use crate::attendance::Guest;
use crate::config::{Plaintext, Server};
use crate::kernel::Door;

/// One client connection, after its first layer is settled.
#[derive(Debug)]
pub struct Connection {
    /// Counts up from 1 in the life of this guard.
    pub id: u64,
    pub peer: SocketAddr,
    /// The address that the client meant.
    pub original_dst: SocketAddr,
    pub server: Arc<Server>,
    /// Where the server is reached.
    pub door: Door,
    pub origin: Origin,
    pub is_tls: bool,
    /// Its place in the counts of connections.
    pub guest: Arc<Guest>,
}

impl Connection {
    /// Whether the server's entry lets this connection do without TLS.
    pub fn may_be_plain(&self) -> bool {
        let from_loopback = self.peer.ip().to_canonical().is_loopback();
        self.server.plaintext == Plaintext::Loopback && from_loopback
    }
}
