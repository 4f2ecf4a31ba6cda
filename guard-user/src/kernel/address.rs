//! Socket addresses as the kernel programs key them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use guard_common::{Address, Flow};

/// The key form of an address: IPv4 as v4-mapped.
pub(super) fn key(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// `address` with a v4-mapped IPv6 address made plain IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            SocketAddr::new(address.ip().to_canonical(), address.port())
        }
        _ => address,
    }
}

/// The flow of a connection from `src` to `dst`.
pub(super) fn flow(netns: u64, src: SocketAddr, dst: SocketAddr) -> Flow {
    Flow::new(netns, key(src.ip()), src.port(), key(dst.ip()), dst.port())
}

/// Loopback of the family of `ip`.
pub(super) fn loopback_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_an_ipv4_address_make_one_key() {
        let plain: SocketAddr = "127.0.0.9:80".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:127.0.0.9]:80".parse().unwrap();
        assert_eq!(flow(7, plain, mapped), flow(7, mapped, plain));
        assert_eq!(canonical(mapped), plain);
        assert_ne!(flow(7, plain, plain), flow(8, plain, plain));
    }
}
