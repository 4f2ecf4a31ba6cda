//! Relays without any judgement, to show what passes when there is no guard, and what TLS alone changes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream as BlockingStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Passes every byte on, both ways, until dropped.
#[derive(Debug)]
pub struct Relay {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// TCP to TCP, on a free loopback port.
    pub async fn plain(upstream: SocketAddr) -> io::Result<Self> {
        Self::at(([127, 0, 0, 1], 0).into(), upstream).await
    }

    /// The same at an address.
    pub async fn at(address: SocketAddr, upstream: SocketAddr) -> io::Result<Self> {
        Self::start(address, upstream, None).await
    }

    /// TLS to TCP, on a free loopback port.
    pub async fn terminating(upstream: SocketAddr, tls: rustls::ServerConfig) -> io::Result<Self> {
        Self::start(([127, 0, 0, 1], 0).into(), upstream, Some(TlsAcceptor::from(Arc::new(tls)))).await
    }

    async fn start(address: SocketAddr, upstream: SocketAddr, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            // Connections are tasks of their own: they end with the sockets, at the latest with the runtime.
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, upstream, tls.clone()));
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(client: TcpStream, upstream: SocketAddr, tls: Option<TlsAcceptor>) -> io::Result<()> {
    client.set_nodelay(true)?;
    match tls {
        None => join(client, upstream).await,
        Some(tls) => join(tls.accept(client).await?, upstream).await,
    }
}

async fn join(mut client: impl AsyncRead + AsyncWrite + Unpin, upstream: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Sends raw bytes over plain TCP and returns all that comes back until the peer closes, or until it has been silent
/// for `silence`. An error only if there is no connection: a reset is an answer, with what came before it.
pub fn exchange(address: SocketAddr, request: &[u8], silence: Duration) -> io::Result<Vec<u8>> {
    let mut stream = BlockingStream::connect(address)?;
    stream.set_read_timeout(Some(silence))?;
    stream.set_nodelay(true)?;
    let mut reply = Vec::new();
    if stream.write_all(request).is_ok() {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            reply.extend_from_slice(&buffer[..count]);
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Answers one connection with what it got.
    async fn mirror() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn a_plain_relay_changes_no_byte() {
        let relay = Relay::plain(mirror().await).await.unwrap();
        // Two content lengths, a duplicate key, invalid UTF-8: nothing a parser would pass on as it is.
        let hostile =
            b"POST /mcp HTTP/1.1\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{\"a\":1,\"a\":\"\xff\0\"}";
        let address = relay.address;
        let silence = Duration::from_millis(300);
        let back = tokio::task::spawn_blocking(move || exchange(address, hostile, silence)).await.unwrap();
        assert_eq!(back.unwrap(), hostile);
    }

    #[tokio::test]
    async fn a_terminating_relay_needs_the_ca_and_changes_no_byte() {
        let ca = crate::ca::TestCa::new().unwrap();
        let tls = crate::tls::server_config(&ca.certificate(), &ca.key()).unwrap();
        let relay = Relay::terminating(mirror().await, tls).await.unwrap();
        let connect = async |trusted| {
            let tls = crate::tls::client_config(trusted).unwrap();
            let stream = TcpStream::connect(relay.address).await.unwrap();
            let name = "localhost".try_into().unwrap();
            tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await
        };
        assert!(connect(None).await.is_err());
        let mut stream = connect(Some(&*ca.ca())).await.unwrap();
        stream.write_all(b"\xff\0{").await.unwrap();
        stream.flush().await.unwrap();
        let mut back = [0; 3];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"\xff\0{");
    }
}
