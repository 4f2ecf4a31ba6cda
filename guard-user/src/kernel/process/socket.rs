//! Asks one network namespace which socket is the client's end of a connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::kernel::address::{canonical, key};
use crate::kernel::diag::{
    self, AF_INET, AF_INET6, ID, LISTEN, NEW_SYN_RECV, NLM_F_REQUEST, NLMSG_ERROR, SOCK_DIAG_BY_FAMILY,
    SYN_RECV, TIME_WAIT,
};
use crate::kernel::maps::lock;

/// Where a sequence number stands in `struct nlmsghdr`.
const SEQUENCE: std::ops::Range<usize> = 8..12;
/// More than one answer about one socket.
const ANSWER_BYTES_MAX: usize = 4096;

/// The sockets of one network namespace: that of the thread which opened this.
#[derive(Debug)]
pub(super) struct Sockets {
    netlink: Mutex<OwnedFd>,
    sequence: AtomicU32,
}

/// The socket with the four numbers of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Open {
        cookie: u64,
        inode: u32,
        /// Who made it: the user, and the cgroup.
        uid: u32,
        cgroup: Option<u64>,
        /// Its handshake is finished.
        is_established: bool,
    },
    /// Closed: the kernel has no socket with these four numbers any more.
    Gone,
}

impl Sockets {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { netlink: Mutex::new(diag::open()?), sequence: AtomicU32::new(1) })
    }

    /// The socket at `own` that is connected to `other`. A few microseconds: the kernel looks it up by hash.
    pub(super) fn end(&self, own: SocketAddr, other: SocketAddr) -> io::Result<End> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed).to_ne_bytes();
        let request = request(canonical(own), canonical(other), sequence);
        let netlink = lock(&self.netlink);
        send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut buffer = [0; ANSWER_BYTES_MAX];
        loop {
            // The kernel answers before `send` returns. An answer to an earlier question that was broken off is
            // told by its number.
            let read = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
            let answer = buffer.get(..read).unwrap_or_default();
            if answer.get(SEQUENCE) == Some(&sequence) {
                return read_end(answer);
            }
        }
    }
}

fn request(own: SocketAddr, other: SocketAddr, sequence: [u8; 4]) -> Vec<u8> {
    let mut id = [0; ID];
    id[..2].copy_from_slice(&own.port().to_be_bytes());
    id[2..4].copy_from_slice(&other.port().to_be_bytes());
    let family = if let (SocketAddr::V4(own), SocketAddr::V4(other)) = (own, other) {
        id[4..8].copy_from_slice(&own.ip().octets());
        id[20..24].copy_from_slice(&other.ip().octets());
        AF_INET
    } else {
        id[4..20].copy_from_slice(&key(own.ip()));
        id[20..36].copy_from_slice(&key(other.ip()));
        if let SocketAddr::V6(own) = own {
            id[36..40].copy_from_slice(&own.scope_id().to_ne_bytes());
        }
        AF_INET6
    };
    // INET_DIAG_NOCOOKIE: whichever socket it is.
    id[40..].fill(0xff);
    let mut request = diag::request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, family, u32::MAX, &id);
    if let Some(at) = request.get_mut(SEQUENCE) {
        at.copy_from_slice(&sequence);
    }
    request
}

fn read_end(answer: &[u8]) -> io::Result<End> {
    match diag::messages(answer).next() {
        Some((SOCK_DIAG_BY_FAMILY, body)) => match diag::socket_of(body) {
            // The kernel goes on to listeners when there is no connection.
            Some(socket) if [LISTEN, TIME_WAIT].contains(&socket.state) => Ok(End::Gone),
            Some(socket) => Ok(End::Open {
                cookie: socket.cookie,
                inode: socket.inode,
                uid: socket.uid,
                cgroup: socket.cgroup,
                is_established: ![SYN_RECV, NEW_SYN_RECV].contains(&socket.state),
            }),
            None => Err(io::ErrorKind::InvalidData.into()),
        },
        Some((NLMSG_ERROR, body)) => match diag::error(body) {
            Some(libc::ENOENT) => Ok(End::Gone),
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Err(io::ErrorKind::InvalidData.into()),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::net::sockopt::socket_cookie;

    use super::*;

    #[test]
    fn the_clients_socket_is_found_in_both_families_and_gone_after_its_end() {
        let sockets = Sockets::open().unwrap();
        for (bind, target) in
            [("127.0.0.1:0", "127.0.0.1"), ("127.0.0.1:0", "::ffff:127.0.0.1"), ("[::1]:0", "::1")]
        {
            let listener = TcpListener::bind(bind).unwrap();
            let target = SocketAddr::new(target.parse().unwrap(), listener.local_addr().unwrap().port());
            let client = TcpStream::connect(target).unwrap();
            let (accepted, peer) = listener.accept().unwrap();
            let own = accepted.local_addr().unwrap();
            let Ok(End::Open { cookie, inode, .. }) = sockets.end(peer, own) else {
                panic!("{target}: not found")
            };
            assert_eq!(cookie, socket_cookie(&client).unwrap(), "{target}");
            assert!(inode > 0);
            let Ok(End::Open { cookie, .. }) = sockets.end(own, peer) else { panic!("{target}: not found") };
            assert_eq!(cookie, socket_cookie(&accepted).unwrap(), "the two ends are two sockets");
            drop((client, accepted));
            assert_eq!(sockets.end(peer, own).unwrap(), End::Gone, "{target}");
            // The port listens, but this is no connection.
            let nobody = SocketAddr::new(own.ip(), 9);
            assert_eq!(sockets.end(own, nobody).unwrap(), End::Gone, "{target}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_is_an_error() {
        assert!(read_end(&[]).is_err());
        assert!(read_end(&[0; 16]).is_err());
    }
}
