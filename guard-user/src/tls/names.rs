//! The names and addresses under which clients of this host know its servers.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// `localhost`, the loopback addresses, the host name, every address of an interface, and `extra`: the subject
/// alternative names of the local CA's certificate, each once.
pub(super) fn of_this_host(extra: &[String]) -> Vec<String> {
    let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).into();
    if let Ok(host) = nix::unistd::gethostname()
        && let Ok(host) = host.into_string()
        && !host.is_empty()
    {
        names.insert(host);
    }
    names.extend(interface_addresses().map(|address| address.to_string()));
    names.extend(extra.iter().cloned());
    names.into_iter().collect()
}

fn interface_addresses() -> impl Iterator<Item = IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    interfaces.into_iter().filter_map(|interface| {
        let address = interface.address?;
        if let Some(v4) = address.as_sockaddr_in() {
            return Some(IpAddr::V4(v4.ip()));
        }
        // A link-local address means nothing without its interface, and a certificate cannot say that.
        let v6 = address.as_sockaddr_in6()?.ip();
        (!v6.is_unicast_link_local()).then_some(IpAddr::V6(v6))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_the_operators_names_are_always_there_once() {
        let names = of_this_host(&["tools.example.net".into(), "localhost".into()]);
        for wanted in ["localhost", "127.0.0.1", "::1", "tools.example.net"] {
            assert_eq!(names.iter().filter(|name| *name == wanted).count(), 1, "{wanted} in {names:?}");
        }
    }
}
