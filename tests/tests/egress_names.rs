//! Names in a server's lock-down: what a resolver says opens addresses, for as long as it says, and nothing else.

use std::net::IpAddr;

use guard_tests::cgroup::Cgroup;
use guard_tests::dns::{NameServer, Says};
use guard_tests::locked::{destinations, eventually, pinned, reaches, wait_until};
use guard_tests::world::{Process, World, test};
use serde_json::json;

const NAME: &str = "api.example";
const RESOLV_CONF: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
const HOSTS: &str = "127.0.0.1 localhost files.example\n";
/// The other host, and another address of it.
const OLD: &str = "10.77.0.2";
const NEW: &str = "10.77.0.3";
const SIX: &str = "fd77::2";

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

/// A closed server in a cgroup, and a guard that resolves the `names` among its exceptions.
fn locked(world: &World, cgroup: &Cgroup, names: &[&str]) -> (Process, Process) {
    world.remote.ip(&format!("addr add {NEW}/24 dev mg1"));
    destinations(world);
    let server = world.probe_in(cgroup, &["worker", "127.0.0.1:3001"]);
    let mut guard = world
        .guard_resolving_by(RESOLV_CONF, HOSTS, |config| {
            config["servers"][0]["egress"] = json!({"default": "deny", "except": names});
        })
        .expect("a guard");
    pinned(&mut guard, &server);
    guard.ask_until("status", |status| status["locks"] != json!([]));
    (guard, server)
}

fn at(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:4003") } else { format!("{ip}:4003") }
}

#[test]
fn a_name_opens_its_addresses_for_as_long_as_its_answers_hold() {
    test(|world| {
        let dns = NameServer::start(&world.host);
        dns.say(NAME, Says::Addresses(ips(&[OLD]), 1));
        let cgroup = Cgroup::new();
        let (_guard, mut server) = locked(world, &cgroup, &["api.example:4003"]);
        assert!(reaches(&mut server, &at(OLD)));
        assert!(!reaches(&mut server, &at(NEW)) && !reaches(&mut server, &at(SIX)));
        dns.say(NAME, Says::Addresses(ips(&[NEW, SIX]), 1));
        wait_until(&mut server, &at(NEW), true);
        wait_until(&mut server, &at(SIX), true);
        wait_until(&mut server, &at(OLD), false);
        assert!(reaches(&mut server, &at(NEW)) && reaches(&mut server, &at(SIX)));
        assert!(!reaches(&mut server, &format!("{NEW}:4001")), "the name is for one port");
    });
}

#[test]
fn a_resolver_that_fails_takes_no_address_away_and_is_told_of() {
    test(|world| {
        let dns = NameServer::start(&world.host);
        dns.say(NAME, Says::Addresses(ips(&[OLD]), 1));
        let cgroup = Cgroup::new();
        let (mut guard, mut server) = locked(world, &cgroup, &["api.example:4003"]);
        for error in [2, 3] {
            dns.say(NAME, Says::Error(error));
            let asked = dns.asked(NAME);
            // Three rounds of both families: longer than the answer and its overlap hold.
            eventually("asked again and again", || dns.asked(NAME) >= asked + 6);
            assert!(reaches(&mut server, &at(OLD)), "error {error}");
            let told = guard.ask("status")["lock_problems"].to_string();
            assert!(told.contains("api.example cannot be resolved"), "error {error}: {told}");
        }
        dns.say(NAME, Says::Addresses(ips(&[NEW]), 1));
        wait_until(&mut server, &at(NEW), true);
        wait_until(&mut server, &at(OLD), false);
        guard.ask_until("status", |status| status["lock_problems"] == json!([]));
    });
}

#[test]
fn a_name_without_an_answer_opens_nothing() {
    test(|world| {
        let _dns = NameServer::start(&world.host);
        let cgroup = Cgroup::new();
        let (mut guard, mut server) = locked(world, &cgroup, &["api.example:4003"]);
        assert!(!reaches(&mut server, &at(OLD)));
        let told = guard.ask("status")["lock_problems"].to_string();
        assert!(told.contains("api.example has no address: there is no such name"), "{told}");
    });
}

#[test]
fn aliases_are_followed_and_what_stands_beside_an_answer_opens_nothing() {
    test(|world| {
        let dns = NameServer::start(&world.host);
        dns.say(NAME, Says::Alias("b.example", 1));
        dns.say("b.example", Says::Alias("c.example", 1));
        dns.say("c.example", Says::Beside(ips(&[OLD, SIX]), "evil.example", ips(&[NEW])));
        dns.say("d.example", Says::Beside(Vec::new(), "evil.example", ips(&[NEW])));
        let cgroup = Cgroup::new();
        let (_guard, mut server) = locked(world, &cgroup, &["api.example:4003", "d.example:4003"]);
        assert!(reaches(&mut server, &at(OLD)) && reaches(&mut server, &at(SIX)));
        assert!(!reaches(&mut server, &at(NEW)), "that is another name's");
        // A loop of aliases ends at no address, and nobody goes round in it for ever.
        dns.say("c.example", Says::Alias(NAME, 1));
        wait_until(&mut server, &at(OLD), false);
    });
}

#[test]
fn a_hostile_answer_opens_neither_this_host_nor_its_link_and_not_thousands() {
    test(|world| {
        let dns = NameServer::start(&world.host);
        let many = (0..3000_u16).map(|number| {
            let [high, low] = number.to_be_bytes();
            IpAddr::from([198, 18, high, low])
        });
        let local = ips(&["127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "::ffff:127.0.0.1", "fe80::1"]);
        let hostile = local.into_iter().chain(many).collect();
        dns.say(NAME, Says::Addresses(hostile, 1));
        let cgroup = Cgroup::new();
        world.host.ip("route add 198.18.0.0/15 dev mg0");
        let (mut guard, mut server) = locked(world, &cgroup, &["api.example:4001"]);
        for here in ["127.0.0.1:4001", "[::1]:4001", "[::ffff:127.0.0.1]:4001"] {
            assert!(!reaches(&mut server, here), "{here}");
        }
        for metadata in ["169.254.169.254:4001", "0.0.0.0:4001"] {
            let told = server.ask(&format!("send {metadata}"));
            assert!(told["error"].to_string().contains("Operation not permitted"), "{metadata}: {told}");
        }
        assert_eq!(server.ask("send 198.18.0.1:4001")["done"], true, "one of the first is open");
        let status = guard.ask("status");
        let opened = status["locks"][0]["destinations"].as_u64().expect("a count");
        // 64 of each family, without those that are local.
        assert!((1..=64).contains(&opened), "{opened}");
        let told = status["lock_problems"].to_string();
        assert!(told.contains("more than 64 addresses"), "{told}");
        assert!(told.contains("127.0.0.1") && told.contains("which no name opens"), "{told}");
    });
}

#[test]
fn the_hosts_file_comes_first_and_may_open_loopback() {
    test(|world| {
        let dns = NameServer::start(&world.host);
        dns.say("files.example", Says::Addresses(ips(&[OLD]), 1));
        let cgroup = Cgroup::new();
        let (_guard, mut server) = locked(world, &cgroup, &["files.example:*"]);
        assert!(reaches(&mut server, "127.0.0.1:4001"));
        assert!(!reaches(&mut server, &at(OLD)));
        assert_eq!(dns.asked("files.example"), 0);
    });
}
