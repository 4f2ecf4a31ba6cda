//! A server on the guard's host, and attackers in every position around it.

use std::fs;
use std::net::Ipv6Addr;
use std::time::Duration;

use guard_tests::bypass::{Attacker, Jail, assert_guarded, assert_reaches};
use guard_tests::process::eventually;
use guard_tests::world::{HOST_V4, Netns, Process, REMOTE_V4, World, test};
use nix::net::if_::if_nametoindex;

/// The network between the host and the container: the host has .1, the container .2.
pub(crate) const JAIL: &str = "10.78.0";

/// A host with a container and a neighbour.
pub(crate) struct Field<'w> {
    pub(crate) world: &'w World,
    pub(crate) jail: Jail,
}

impl<'w> Field<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        let jail = Jail::linked(&world.host, JAIL);
        world.remote.ip(&format!("route add {JAIL}.0/24 via {HOST_V4}"));
        jail.netns.ip("-6 route add default via fd78::1");
        Self { world, jail }
    }

    /// Without a guard each attack must reach the server, with one it must end at the guard.
    pub(crate) fn attack(&self, attacks: &[(&str, Attacker, Vec<String>)]) {
        let server = self.world.server(&["[::]:3001"]);
        for (row, from, attack) in attacks {
            assert_reaches(row, from, &words(attack));
        }
        let mut guard = self.world.guard();
        for (row, from, attack) in attacks {
            assert_guarded(row, from, &words(attack));
        }
        assert_eq!(guard.ask("dial 3001")["answer"], "server", "the guard itself gets there");
        drop((server, guard));
        self.world.unload();
    }
}

/// Runs a test in a field of its own.
pub(crate) fn field(body: impl FnOnce(&Field<'_>)) {
    test(|world| body(&Field::new(world)));
}

pub(crate) fn words(attack: &[String]) -> Vec<&str> {
    attack.iter().map(String::as_str).collect()
}

/// `connect TARGET HOW...`
pub(crate) fn connect(target: &str, how: &[&str]) -> Vec<String> {
    ["connect", target].iter().chain(how).map(|word| (*word).to_owned()).collect()
}

/// The link-local address of a device, for a client that has the other end of its link: `[fe80::1%2]:3001`.
pub(crate) fn link_local(of: (&Netns, &str), seen_from: (&Netns, &str)) -> String {
    let address = address_of(of.0, of.1);
    // Without an address of its own the client has no route.
    let _client = address_of(seen_from.0, seen_from.1);
    let scope = seen_from.0.run(|| if_nametoindex(seen_from.1).expect("a device"));
    format!("[{address}%{scope}]:3001")
}

/// Waits until the device has its link-local address.
fn address_of(netns: &Netns, device: &str) -> Ipv6Addr {
    let find = || -> anyhow::Result<Option<Ipv6Addr>> {
        let table = netns.run(|| fs::read_to_string("/proc/thread-self/net/if_inet6"))?;
        let is_it =
            |line: &&str| line.starts_with("fe80") && line.ends_with(device) && !line.contains(" 20 c0 ");
        let line = table.lines().find(is_it);
        Ok(line.map(|line| u128::from_str_radix(&line[..32], 16)).transpose()?.map(Ipv6Addr::from))
    };
    let found = eventually(Duration::from_secs(10), find).expect("a table of addresses");
    found.unwrap_or_else(|| panic!("{device} has no link-local address"))
}

/// The server's process and the guard's, as they are in most tests.
pub(crate) fn wait_for_server(guard: &mut Process, server: &Process) {
    guard.ask_until("status", |status| {
        status["namespaces"][0]["ports"]["3001"]["pinned"][0]["pid"] == server.pid()
    });
}

/// The neighbour's own address on the link to the host.
pub(crate) const NEIGHBOUR: &str = REMOTE_V4;
