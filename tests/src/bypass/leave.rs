//! Ways for a packet to leave a locked server, and somebody on the link who sees what left.

use std::io::{self, Read};
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::libc;
use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use super::wire::{checksum, length_of, link_address};
use crate::world::Netns;

/// How long the packet after an attack may take. Only a failing test waits.
const PATIENCE: Duration = Duration::from_secs(20);
/// A link may hold two packets of two ways for a moment, in any order.
const APART: Duration = Duration::from_millis(100);

const UDP: u8 = 17;
const TCP: u8 = 6;
/// For experiments.
const NEITHER: u8 = 253;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;
const SOURCE_PORT: u16 = 40_000;

/// Sends `mark` to `target` in a way, then `fence` by an ordinary datagram to `allowed`.
pub fn run(way: &str, target: &str, mark: &str, allowed: &str, fence: &str) -> anyhow::Result<Value> {
    let target: SocketAddr = target.parse()?;
    let met = match send(way, target, mark.as_bytes()) {
        Ok(()) => json!({"sent": true}),
        Err(error) => json!({"error": error.to_string()}),
    };
    std::thread::sleep(APART);
    let allowed: SocketAddr = allowed.parse()?;
    UdpSocket::bind((any(allowed.ip()), 0))?
        .send_to(fence.as_bytes(), allowed)
        .context("the fence does not leave")?;
    Ok(met)
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn send(way: &str, target: SocketAddr, mark: &[u8]) -> anyhow::Result<()> {
    let raw = |protocol: u8| {
        Socket::new(Domain::for_address(target), Type::RAW, Some(Protocol::from(i32::from(protocol))))
    };
    // A raw socket of IPv6 takes a port for a protocol.
    let to = SocketAddr::new(target.ip(), 0).into();
    let port = target.port();
    match way {
        "udp" => drop(UdpSocket::bind((any(target.ip()), 0))?.send_to(mark, target)?),
        "udp-connected" => {
            let socket = UdpSocket::bind((any(target.ip()), 0))?;
            socket.connect(target)?;
            socket.send(mark)?;
        }
        "udp-options" => {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &options(0))?;
            socket.send_to(mark, &target.into())?;
        }
        "raw" => drop(raw(NEITHER)?.send_to(mark, &to)?),
        "raw-udp" => drop(raw(UDP)?.send_to(&udp(port, mark), &to)?),
        "raw-connected" => {
            let socket = raw(UDP)?;
            socket.connect(&to)?;
            socket.send(&udp(port, mark))?;
        }
        "icmp" => drop(raw(icmp_number(target.ip()))?.send_to(&echo(target.ip(), mark), &to)?),
        "ping" => {
            let protocol = Protocol::from(i32::from(icmp_number(target.ip())));
            let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(protocol))?;
            socket.send_to(&echo(target.ip(), mark), &to)?;
        }
        "packet" => {
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
            let IpAddr::V4(ip) = target.ip() else { bail!("by IPv4") };
            let packet = ipv4(ip, UDP, false, &udp(port, mark));
            let mut address = link_address(if_nametoindex("jail1")?, [0xff; 6]);
            address.sll_protocol = u16::try_from(libc::ETH_P_IP)?.to_be();
            // SAFETY: packet and address are as long as stated and outlive the call.
            let sent = unsafe {
                libc::sendto(
                    socket.as_raw_fd(),
                    packet.as_ptr().cast(),
                    packet.len(),
                    0,
                    (&raw const address).cast(),
                    length_of::<libc::sockaddr_ll>(),
                )
            };
            if sent < 0 {
                return Err(io::Error::last_os_error().into());
            }
        }
        crafted => {
            let socket = raw(u8::try_from(libc::IPPROTO_RAW)?)?;
            socket.send_to(&craft(crafted, target.ip(), port, mark)?, &to)?;
        }
    }
    Ok(())
}

/// A whole packet, header included.
fn craft(how: &str, to: IpAddr, port: u16, mark: &[u8]) -> anyhow::Result<Vec<u8>> {
    let udp = udp(port, mark);
    Ok(match (how, to) {
        ("crafted", IpAddr::V4(ip)) => ipv4(ip, UDP, false, &udp),
        ("crafted-tcp", IpAddr::V4(ip)) => ipv4(ip, TCP, false, &tcp(port, mark)),
        ("crafted-fragment", IpAddr::V4(ip)) => ipv4(ip, UDP, true, &udp),
        ("crafted", IpAddr::V6(ip)) => ipv6(ip, UDP, &udp),
        ("crafted-tcp", IpAddr::V6(ip)) => ipv6(ip, TCP, &tcp(port, mark)),
        ("crafted-fragment", IpAddr::V6(ip)) => {
            // The first of several.
            let header = [&[UDP, 0, 0, 1, 0, 0, 0, 7][..], &udp].concat();
            ipv6(ip, FRAGMENT, &header)
        }
        ("crafted-options", IpAddr::V6(ip)) => {
            ipv6(ip, DESTINATION_OPTIONS, &[&options(UDP)[..], &udp].concat())
        }
        ("crafted-many-options", IpAddr::V6(ip)) => {
            let mut chain = options(DESTINATION_OPTIONS).repeat(9);
            chain.extend(options(UDP));
            ipv6(ip, DESTINATION_OPTIONS, &[chain, udp].concat())
        }
        other => bail!("no such way: {other:?}"),
    })
}

/// Destination options without any: padding. Eight bytes.
fn options(next: u8) -> [u8; 8] {
    const PADDING: u8 = 1;
    [next, 0, PADDING, 4, 0, 0, 0, 0]
}

fn udp(port: u16, mark: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + mark.len()).expect("a short mark");
    [&SOURCE_PORT.to_be_bytes(), &port.to_be_bytes(), &length.to_be_bytes(), &[0; 2], mark].concat()
}

fn tcp(port: u16, mark: &[u8]) -> Vec<u8> {
    const SYN: u8 = 2;
    let ports = [SOURCE_PORT.to_be_bytes(), port.to_be_bytes()].concat();
    [&ports, &[0; 8][..], &[5 << 4, SYN, 255, 255, 0, 0, 0, 0], mark].concat()
}

fn icmp_number(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 1 } else { 58 }
}

fn echo(ip: IpAddr, mark: &[u8]) -> Vec<u8> {
    let kind = if ip.is_ipv4() { 8 } else { 128 };
    let mut message = [&[kind, 0, 0, 0, 0, 1, 0, 1], mark].concat();
    if ip.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// The kernel fills in source, length and checksum.
fn ipv4(to: Ipv4Addr, protocol: u8, more: bool, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + data.len()).expect("a short packet");
    let place = if more { 0x20 } else { 0 };
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 7, place, 0, 64, protocol, 0, 0]);
    packet.extend(Ipv4Addr::new(10, 78, 0, 2).octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    [&packet, data].concat()
}

fn ipv6(to: Ipv6Addr, next: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("a short packet");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 2).octets());
    packet.extend(to.octets());
    [&packet, data].concat()
}

fn set(socket: &Socket, level: i32, option: i32, value: &[u8; 8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<[u8; 8]>()).expect("eight");
    // SAFETY: `value` is as long as stated and outlives the call.
    let done =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, value.as_ptr().cast(), length) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sees every frame that comes to a namespace.
#[derive(Debug)]
pub struct Sniffer {
    socket: Socket,
}

impl Sniffer {
    pub fn in_netns(netns: &Netns) -> Self {
        let all = Protocol::from(i32::from(u16::try_from(libc::ETH_P_ALL).expect("a number").to_be()));
        let socket =
            netns.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(all)).expect("a packet socket"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self { socket }
    }

    /// Waits for a frame with `fence` in it, and says whether one with `mark` came before.
    ///
    /// # Panics
    /// When no fence comes.
    pub fn saw(&self, mark: &str, fence: &str) -> bool {
        let (mut seen, end) = (false, Instant::now() + PATIENCE);
        let mut frame = vec![0; 65_536];
        while Instant::now() < end {
            let length = (&self.socket).read(&mut frame).expect("a frame");
            let has = |word: &str| frame[..length].windows(word.len()).any(|part| part == word.as_bytes());
            seen |= has(mark);
            if has(fence) {
                return seen;
            }
        }
        panic!("no fence came");
    }
}
