//! Syslog over TLS (RFC 5425) or TCP (RFC 6587, with lengths).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

use super::sink::Undelivered;
use crate::audit::frame;

/// To connect, and for each write.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Stream {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    open: Option<Open>,
}

enum Open {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    pub(super) fn new(host: &str, port: u16, tls: Option<ClientConfig>) -> Self {
        // A URL has brackets around an address of IPv6; nothing else has.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Self { host, port, tls: tls.map(Arc::new), open: None }
    }

    pub(super) fn send(&mut self, lines: &mut VecDeque<String>) -> Result<(), Undelivered> {
        let sent = self.write(lines);
        if sent.is_ok() {
            lines.clear();
        }
        if sent.is_err() {
            // Part of a message may have gone: only a new connection begins with a whole one.
            self.open = None;
        }
        sent.map_err(|error| self.later(&error))
    }

    /// Whether nothing says that the other side has ended it.
    pub(super) fn is_open(&mut self) -> bool {
        self.open.as_mut().is_none_or(|open| !open.is_closed())
    }

    /// Tells the other side that nothing follows, and waits until it has ended the connection, too: so all was read.
    pub(super) fn finish(&mut self) -> Result<(), Undelivered> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        open.finish().map_err(|error| self.later(&error))
    }

    fn later(&self, error: &io::Error) -> Undelivered {
        Undelivered::later(format!("{}:{}: {error}", self.host, self.port))
    }

    fn write(&mut self, lines: &VecDeque<String>) -> io::Result<()> {
        // Syslog has no receipts. At least a connection that the other side has closed is not written to, and what went there before is
        // taken for lost.
        if !self.is_open() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the other side has ended the connection",
            ));
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(connect(&self.host, self.port, self.tls.as_ref())?),
        };
        let bytes: String = lines.iter().map(|line| frame(line)).collect();
        match open {
            Open::Plain(tcp) => tcp.write_all(bytes.as_bytes()).and_then(|()| tcp.flush()),
            Open::Tls(tls) => tls.write_all(bytes.as_bytes()).and_then(|()| tls.flush()),
        }
    }
}

impl Open {
    fn finish(&mut self) -> io::Result<()> {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => {
                tls.conn.send_close_notify();
                tls.flush()?;
                &mut tls.sock
            }
        };
        tcp.shutdown(Shutdown::Write)?;
        let mut rest = [0; 4096];
        loop {
            // Session tickets and alerts; a receiver says nothing else.
            match tcp.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the other side has ended it. It has nothing else to say.
    fn is_closed(&mut self) -> bool {
        let ended = match self {
            Self::Plain(tcp) => unblocked(tcp, |tcp| Ok(tcp.peek(&mut [0])? == 0)),
            Self::Tls(tls) => {
                let StreamOwned { conn, sock } = &mut **tls;
                unblocked(sock, |sock| {
                    let is_end = conn.read_tls(sock)? == 0;
                    let state = conn.process_new_packets().map_err(io::Error::other)?;
                    Ok(is_end || state.peer_has_closed())
                })
            }
        };
        ended.unwrap_or(true)
    }
}

/// What `look` finds at once; `false` if it would have to wait.
fn unblocked(tcp: &mut TcpStream, look: impl FnOnce(&mut TcpStream) -> io::Result<bool>) -> io::Result<bool> {
    tcp.set_nonblocking(true)?;
    let found = match look(tcp) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        found => found,
    };
    tcp.set_nonblocking(false)?;
    found
}

fn connect(host: &str, port: u16, tls: Option<&Arc<ClientConfig>>) -> io::Result<Open> {
    let mut last = io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(tcp) => {
                tcp.set_write_timeout(Some(PATIENCE))?;
                tcp.set_read_timeout(Some(PATIENCE))?;
                let Some(config) = tls else { return Ok(Open::Plain(tcp)) };
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                let mut tls = StreamOwned::new(connection, tcp);
                while tls.conn.is_handshaking() {
                    tls.conn.complete_io(&mut tls.sock)?;
                }
                return Ok(Open::Tls(Box::new(tls)));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
