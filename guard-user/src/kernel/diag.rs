//! Lists and ends TCP sockets of this network namespace (netlink `sock_diag`).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// TCP states as the kernel numbers them.
pub(super) const LISTEN: u8 = 10;
const ESTABLISHED: u8 = 1;
pub(super) const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
pub(super) const SYN_RECV: u8 = 3;
pub(super) const NEW_SYN_RECV: u8 = 12;

pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
pub(super) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
pub(super) const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const HEADER: usize = 16;
/// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
pub(super) const ID: usize = 48;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;

/// An attribute of an answer.
const INET_DIAG_CGROUP_ID: u16 = 21;

/// One TCP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket {
    pub state: u8,
    pub v6: bool,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The socket's user id: who made it.
    pub uid: u32,
    /// Zero while the connection waits to be accepted.
    pub inode: u32,
    pub cookie: u64,
    /// The cgroup in which it was made.
    pub cgroup: Option<u64>,
    id: [u8; ID],
}

/// Sockets that listen, of both families.
pub(super) fn listening() -> io::Result<Vec<Socket>> {
    dump(1 << LISTEN, 0)
}

/// Connections that are alive in any state; with this local port, if one is given.
pub(super) fn connections(local_port: Option<u16>) -> io::Result<Vec<Socket>> {
    dump(alive(), local_port.unwrap_or_default())
}

/// Connections that were made in these cgroups.
pub(super) fn of_cgroups(ids: &BTreeSet<u64>) -> io::Result<Vec<Socket>> {
    let mut found = dump(alive(), 0)?;
    found.retain(|socket| socket.cgroup.is_some_and(|id| ids.contains(&id)));
    Ok(found)
}

/// Every state of a connection that can carry something yet.
fn alive() -> u32 {
    let mut states = 0;
    for state in ESTABLISHED..=NEW_SYN_RECV {
        if ![LISTEN, TIME_WAIT, CLOSE].contains(&state) {
            states |= 1 << state;
        }
    }
    states
}

/// Aborts a connection; both ends see a reset. `Ok(false)`: it was gone already.
pub(super) fn destroy(target: &Socket) -> io::Result<bool> {
    let family = if target.v6 { AF_INET6 } else { AF_INET };
    let state = if target.state == SYN_RECV { NEW_SYN_RECV } else { target.state };
    let netlink = open()?;
    let request = request(
        SOCK_DESTROY,
        NLM_F_REQUEST | NLM_F_ACK,
        family,
        (1 << target.state) | (1 << state),
        &target.id,
    );
    send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut buffer = vec![0; 8192];
    let read = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    match messages(buffer.get(..read).unwrap_or_default()).next() {
        Some((NLMSG_ERROR, body)) => match error(body) {
            None => Ok(true),
            Some(nix::libc::ENOENT) => Ok(false),
            Some(code) => Err(io::Error::from_raw_os_error(code)),
        },
        _ => Err(io::Error::other("the kernel did not answer SOCK_DESTROY")),
    }
}

fn dump(states: u32, local_port: u16) -> io::Result<Vec<Socket>> {
    let mut id = [0; ID];
    id[..2].copy_from_slice(&local_port.to_be_bytes());
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let netlink = open()?;
        send(
            netlink.as_raw_fd(),
            &request(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, family, states, &id),
            MsgFlags::empty(),
        )?;
        let mut buffer = vec![0; 64 * 1024];
        'family: loop {
            let read = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for (kind, body) in messages(buffer.get(..read).unwrap_or_default()) {
                match kind {
                    NLMSG_DONE => break 'family,
                    NLMSG_ERROR => {
                        return Err(io::Error::from_raw_os_error(error(body).unwrap_or(nix::libc::EIO)));
                    }
                    SOCK_DIAG_BY_FAMILY => found.extend(socket_of(body)),
                    _ => {}
                }
            }
        }
    }
    // The kernel's port filter is an optimisation that a kernel may leave out.
    found.retain(|socket: &Socket| local_port == 0 || socket.local.port() == local_port);
    Ok(found)
}

pub(super) fn open() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?)
}

/// A netlink message with `struct inet_diag_req_v2`.
pub(super) fn request(kind: u16, flags: u16, family: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + 8 + ID);
    out.extend(72_u32.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(1_u32.to_ne_bytes());
    out.extend(0_u32.to_ne_bytes());
    out.extend([family, IPPROTO_TCP, 0, 0]);
    out.extend(states.to_ne_bytes());
    out.extend(id);
    out
}

/// The messages in one datagram: type and body. Ends at the first one that is not whole.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(array(rest, 0)?) as usize;
        let kind = u16::from_ne_bytes(array(rest, 4)?);
        let body = rest.get(HEADER..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The code of an `NLMSG_ERROR`; `None` means success.
pub(super) fn error(body: &[u8]) -> Option<i32> {
    match i32::from_ne_bytes(array(body, 0).unwrap_or([0xff; 4])) {
        0 => None,
        code => Some(code.checked_neg().unwrap_or(nix::libc::EIO)),
    }
}

pub(super) fn socket_of(body: &[u8]) -> Option<Socket> {
    let message: [u8; MESSAGE] = array(body, 0)?;
    let id: [u8; ID] = array(&message, 4)?;
    let v6 = message[0] == AF_INET6;
    let address = |at: usize, port_at: usize| -> Option<SocketAddr> {
        let ip: IpAddr = if v6 {
            Ipv6Addr::from(array::<16>(&id, at)?).into()
        } else {
            Ipv4Addr::from(array::<4>(&id, at)?).into()
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(array(&id, port_at)?)))
    };
    Some(Socket {
        state: message[1],
        v6,
        local: address(4, 0)?,
        remote: address(20, 2)?,
        uid: u32::from_ne_bytes(array(&message, 64)?),
        inode: u32::from_ne_bytes(array(&message, 68)?),
        cookie: u64::from(u32::from_ne_bytes(array(&id, 40)?))
            | u64::from(u32::from_ne_bytes(array(&id, 44)?)) << 32,
        cgroup: attribute(body.get(MESSAGE..).unwrap_or_default(), INET_DIAG_CGROUP_ID),
        id,
    })
}

/// The value of a netlink attribute of eight bytes.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<u64> {
    loop {
        let len = usize::from(u16::from_ne_bytes(array(rest, 0)?));
        if u16::from_ne_bytes(array(rest, 2)?) == wanted {
            return array(rest.get(..len)?, 4).map(u64::from_ne_bytes);
        }
        // A length of nothing would be read for ever.
        rest = rest.get(len.max(4).next_multiple_of(4)..)?;
    }
}

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_listener_and_its_connection_are_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let cookie = rustix::net::sockopt::socket_cookie(&listener).unwrap();
        let found = listening().unwrap().into_iter().find(|socket| socket.cookie == cookie).unwrap();
        assert_eq!((found.local, found.state, found.v6), (address, LISTEN, false));
        let found = connections(Some(address.port())).unwrap();
        assert_eq!(
            found.iter().map(|socket| socket.remote).collect::<Vec<_>>(),
            [client.local_addr().unwrap()]
        );
        assert_eq!(found[0].inode, 0, "not accepted yet");
        let own = crate::kernel::owner::cgroup_path(std::process::id()).unwrap();
        let root = crate::kernel::host::cgroup2_root().unwrap();
        let id = crate::kernel::gates::id(&crate::kernel::gates::directory(&root, &own)).unwrap();
        assert_eq!(found[0].cgroup, Some(id));
        assert!(
            of_cgroups(&BTreeSet::from([id]))
                .unwrap()
                .iter()
                .any(|socket| socket.local.port() == address.port())
        );
    }

    #[test]
    fn a_cut_answer_yields_no_socket() {
        assert!(socket_of(&[0; MESSAGE - 1]).is_none());
        assert_eq!(messages(&[200, 0, 0, 0, 20, 0, 0, 0]).count(), 0);
        assert_eq!(messages(&[]).count(), 0);
        assert_eq!(attribute(&[0; 8], 21), None, "a length of zero does not loop");
        assert_eq!(attribute(&[12, 0, 21, 0, 1, 0, 0, 0], 21), None);
        assert_eq!(messages(&[0; 16]).count(), 0, "a length of zero does not loop");
    }
}
