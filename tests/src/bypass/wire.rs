//! IPv4 packets as bytes, and raw sockets that send and receive them.

use std::io::{self, Read};
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::net::if_::if_nametoindex;
use socket2::Socket;

use super::checked;
use super::connect::owned;

const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
/// Fragments begin at multiples of this.
const FRAGMENT: usize = 8;
const MORE_FRAGMENTS: u16 = 0x2000;

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;

/// A TCP segment, either way.
#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub data: Vec<u8>,
}

/// How packets leave.
#[derive(Debug)]
pub(super) enum Exit {
    /// By a raw IP socket, through this host's routing.
    Ip,
    /// By a packet socket, past routing and netfilter, to this hardware address.
    Link([u8; 6]),
}

/// A wire between two TCP ends of which this process plays one.
#[derive(Debug)]
pub(super) struct Wire {
    from: SocketAddrV4,
    to: SocketAddrV4,
    device: u32,
    exit: Exit,
    fragments: bool,
    raw: OwnedFd,
    packets: Socket,
}

impl Wire {
    pub(super) fn open(
        device: &str,
        exit: Exit,
        fragments: bool,
        from: SocketAddrV4,
        to: SocketAddrV4,
    ) -> io::Result<Self> {
        let device = if_nametoindex(device)?;
        // SAFETY: `socket` takes numbers alone.
        let raw = owned(unsafe {
            libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW)
        })?;
        let protocol = libc::c_int::from(ip_protocol());
        // SAFETY: as above.
        let packets =
            owned(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) })?;
        let address = link_address(device, [0; 6]);
        // SAFETY: `address` is a structure of the stated length.
        checked(unsafe {
            libc::bind(packets.as_raw_fd(), (&raw const address).cast(), length_of::<libc::sockaddr_ll>())
        })?;
        Ok(Self { from, to, device, exit, fragments, raw, packets: packets.into() })
    }

    pub(super) fn send(&self, segment: &Segment) -> io::Result<()> {
        let tcp = tcp(self.from, self.to, segment);
        let parts: Vec<(usize, &[u8])> = if self.fragments {
            tcp.chunks(FRAGMENT).enumerate().map(|(index, part)| (index * FRAGMENT, part)).collect()
        } else {
            vec![(0, &tcp)]
        };
        for (offset, part) in parts {
            let is_last = offset + part.len() == tcp.len();
            let id = u16::try_from(segment.seq & 0xffff).expect("16 bits");
            self.send_packet(&ip(*self.from.ip(), *self.to.ip(), id, offset, is_last, part))?;
        }
        Ok(())
    }

    fn send_packet(&self, packet: &[u8]) -> io::Result<()> {
        // SAFETY: both address structures are of the stated lengths, `packet` is too, and all outlive the calls.
        let sent = unsafe {
            match self.exit {
                Exit::Ip => {
                    let address = internet_address(*self.to.ip());
                    libc::sendto(
                        self.raw.as_raw_fd(),
                        packet.as_ptr().cast(),
                        packet.len(),
                        0,
                        (&raw const address).cast(),
                        length_of::<libc::sockaddr_in>(),
                    )
                }
                Exit::Link(hardware) => {
                    let address = link_address(self.device, hardware);
                    libc::sendto(
                        self.packets.as_raw_fd(),
                        packet.as_ptr().cast(),
                        packet.len(),
                        0,
                        (&raw const address).cast(),
                        length_of::<libc::sockaddr_ll>(),
                    )
                }
            }
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next segment of the other end; none after `limit`.
    pub(super) fn receive(&self, limit: Duration) -> io::Result<Option<Segment>> {
        let end = Instant::now() + limit;
        let mut bytes = vec![0_u8; 65_536];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.packets.set_read_timeout(Some(left))?;
            let read = match (&self.packets).read(&mut bytes) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            if let Some(segment) = read_packet(&bytes[..read], self.to, self.from) {
                return Ok(Some(segment));
            }
        }
    }
}

/// A segment in `packet` from `from` to `to`.
fn read_packet(packet: &[u8], from: SocketAddrV4, to: SocketAddrV4) -> Option<Segment> {
    let header = usize::from(packet.first()? & 15) * 4;
    let length = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let addresses = packet.get(12..20)?;
    let tcp = packet.get(header..length.min(packet.len()))?;
    let is_theirs = *packet.get(9)? == 6
        && addresses == [from.ip().octets(), to.ip().octets()].concat()
        && tcp.get(..4)? == [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    let data = usize::from(tcp.get(12)? >> 4) * 4;
    is_theirs.then_some(())?;
    Some(Segment { seq: word(4)?, ack: word(8)?, flags: *tcp.get(13)?, data: tcp.get(data..)?.to_vec() })
}

fn tcp(from: SocketAddrV4, to: SocketAddrV4, segment: &Segment) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(TCP_HEADER + segment.data.len());
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(segment.seq.to_be_bytes());
    bytes.extend(segment.ack.to_be_bytes());
    bytes.extend([5 << 4, segment.flags]);
    bytes.extend(65_535_u16.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(&segment.data);
    let length = u16::try_from(bytes.len()).expect("a short segment");
    let mut pseudo = [from.ip().octets(), to.ip().octets()].concat();
    pseudo.extend([0, 6]);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend(&bytes);
    let sum = checksum(&pseudo);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn ip(from: Ipv4Addr, to: Ipv4Addr, id: u16, offset: usize, is_last: bool, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(IP_HEADER + data.len()).expect("a short packet");
    let offset = u16::try_from(offset / FRAGMENT).expect("a small offset");
    let place = if is_last { offset } else { offset | MORE_FRAGMENTS };
    let mut bytes = vec![0x45, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(place.to_be_bytes());
    bytes.extend([64, 6, 0, 0]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The Internet checksum of RFC 1071.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// `ETH_P_IP` in network byte order.
fn ip_protocol() -> u16 {
    0x0800_u16.to_be()
}

pub(super) fn link_address(device: u32, hardware: [u8; 6]) -> libc::sockaddr_ll {
    // SAFETY: all zeroes is a valid value of this structure of numbers.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("a small number");
    address.sll_protocol = ip_protocol();
    address.sll_ifindex = i32::try_from(device).expect("a small number");
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&hardware);
    address
}

fn internet_address(ip: Ipv4Addr) -> libc::sockaddr_in {
    // SAFETY: as above.
    let mut address: libc::sockaddr_in = unsafe { zeroed() };
    address.sin_family = u16::try_from(libc::AF_INET).expect("a small number");
    address.sin_addr.s_addr = u32::from(ip).to_be();
    address
}

pub(super) fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a small structure")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_its_checksums_are_right() {
        let (from, to) = ("10.0.0.1:40000".parse().unwrap(), "10.0.0.2:3001".parse().unwrap());
        let segment = Segment { seq: 7, ack: 9, flags: PSH | ACK, data: b"odd".to_vec() };
        let tcp = tcp(from, to, &segment);
        let packet = ip(*from.ip(), *to.ip(), 1, 0, true, &tcp);
        assert_eq!(checksum(&packet[..IP_HEADER]), 0);
        let read = read_packet(&packet, from, to).unwrap();
        assert_eq!((read.seq, read.ack, read.flags, read.data), (7, 9, PSH | ACK, b"odd".to_vec()));
        assert!(read_packet(&packet, to, from).is_none());
        for cut in 0..packet.len() - 3 {
            let _any = read_packet(&packet[..cut], from, to);
        }
    }
}
