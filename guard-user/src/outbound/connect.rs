//! A connection to a name or address.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::tls::Peer;

/// One address; then the next one is tried.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// Of one name.
const ADDRESSES_MAX: usize = 8;

/// `protected` are the ports of servers on this host, where no `peer` is.
pub(super) async fn connect(
    host: &str,
    port: u16,
    (protected, peer): (&[u16], Peer),
) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<_> =
        found.map_err(|error| format!("{host} cannot be resolved: {error}"))?.take(ADDRESSES_MAX).collect();
    let mut last = format!("{host} has no address");
    for address in found {
        if protected.contains(&address.port()) && is_of_this_host(address.ip()) {
            let name = peer.name();
            return Err(format!("{address} is the port of a protected server, which must not be {name}"));
        }
        match tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = format!("{address} cannot be reached: {error}"),
            Err(_late) => {
                last = format!("{address} cannot be reached within {} s", CONNECT_PATIENCE.as_secs());
            }
        }
    }
    Err(last)
}

/// Only an address of this host can be bound to.
fn is_of_this_host(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified() || UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_this_host_is_known_by_its_address() {
        for (address, is) in
            [("127.0.0.1", true), ("::1", true), ("127.9.9.9", true), ("0.0.0.0", true), ("192.0.2.1", false)]
        {
            assert_eq!(is_of_this_host(address.parse().unwrap()), is, "{address}");
        }
    }

    #[tokio::test]
    async fn a_protected_port_of_this_host_is_not_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let refused = connect("127.0.0.1", port, (&[port], Peer::ISSUER)).await.unwrap_err();
        assert!(
            refused.ends_with("is the port of a protected server, which must not be the issuer"),
            "{refused}"
        );
        connect("127.0.0.1", port, (&[], Peer::ISSUER)).await.unwrap();
    }
}
