//! Who is on the other end of a client connection: what stays true for all of its requests.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{OnceCell, Semaphore};

use crate::accept::Origin;
use crate::attendance::Guest;
use crate::config::{Plaintext, Server};
use crate::identity::Certificate;
use crate::kernel::process::FileDigest;
use crate::kernel::{Client, Door, Witness};

/// Executables that are read at the same time. One client's large file must not take all threads.
static READING: Semaphore = Semaphore::const_new(1);

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
    /// What its client showed in the TLS handshake.
    pub certificate: Option<Arc<Certificate>>,
    /// Its place in the counts of connections.
    pub guest: Arc<Guest>,
    pub process: Process,
}

/// What is found out about the process of a local client, each thing once and only when it is asked for.
#[derive(Debug)]
pub struct Process {
    witness: Witness,
    client: OnceCell<Client>,
    digest: OnceCell<Option<FileDigest>>,
}

impl Process {
    pub fn new(witness: Witness) -> Self {
        Self { witness, client: OnceCell::new(), digest: OnceCell::new() }
    }
}

impl Connection {
    /// Whether the server's entry lets this connection do without TLS.
    pub fn may_be_plain(&self) -> bool {
        let from_loopback = self.peer.ip().to_canonical().is_loopback();
        self.server.plaintext == Plaintext::Loopback && from_loopback
    }

    /// Looks at the client, once. To be awaited before [`Connection::client`].
    pub async fn look(&self) -> &Client {
        self.process.client.get_or_init(|| self.find_client()).await
    }

    /// The client as far as it was looked at.
    pub fn client(&self) -> &Client {
        self.process.client.get().unwrap_or(&Client::UnknownLocal)
    }

    async fn find_client(&self) -> Client {
        let (process, is_neighbour) = match &self.origin {
            Origin::Local(process) => (process.clone(), false),
            Origin::Neighbour(process) => (process.clone(), true),
            Origin::UnknownLocal => return Client::UnknownLocal,
            Origin::Remote => return Client::Remote,
        };
        let (witness, peer, dst) = (self.process.witness.clone(), self.peer, self.original_dst);
        let look = if is_neighbour { Witness::look_next_door } else { Witness::look };
        let looked = tokio::task::spawn_blocking(move || look(&witness, &process, peer, dst)).await;
        looked.unwrap_or(Client::UnknownLocal)
    }

    /// SHA-256 of what the client's process runs, if that can be told. May take as long as reading the file takes.
    pub async fn digest(&self) -> Option<FileDigest> {
        *self.process.digest.get_or_init(|| self.find_digest()).await
    }

    /// The same, if it was asked for before.
    pub fn known_digest(&self) -> Option<FileDigest> {
        self.process.digest.get().copied().flatten()
    }

    async fn find_digest(&self) -> Option<FileDigest> {
        let Client::Process(evidence) = self.look().await else { return None };
        let (witness, evidence) = (self.process.witness.clone(), evidence.clone());
        // Only a closed semaphore gives none, and nobody closes this one.
        let _alone = READING.acquire().await.ok()?;
        match tokio::task::spawn_blocking(move || witness.digest(&evidence)).await.ok()? {
            Ok(digest) => Some(digest),
            Err(error) => {
                tracing::info!(peer = %self.peer, %error, "the client's executable has no digest");
                None
            }
        }
    }
}
