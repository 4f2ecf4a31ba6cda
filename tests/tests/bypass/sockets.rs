//! Rows 1, 2 and 17, and the options that a socket has.

use guard_tests::bypass::{Attacker, assert_guarded, assert_reaches, assert_stopped, met};
use guard_tests::world::{HOST_V4, HOST_V6, NOBODY, Netns};

use crate::field::{Field, NEIGHBOUR, connect, field, link_local};

type Attack = (&'static str, Attacker, Vec<String>);

/// The same sockets from each position.
fn from_everywhere(field: &Field<'_>, row: &'static str, how: &[&str]) -> Vec<Attack> {
    let Field { world, jail } = field;
    vec![
        (row, Attacker::local(world), connect("127.0.0.1:3001", how)),
        (row, Attacker::remote(world), connect(&format!("{HOST_V4}:3001"), how)),
        (row, jail.user(world), connect(&format!("{HOST_V4}:3001"), how)),
        (row, jail.root(world), connect("10.78.0.1:3001", how)),
    ]
}

#[test]
fn row_1_every_spelling_of_the_host() {
    field(|field| {
        let Field { world, jail } = field;
        let row = "1 spellings";
        let own = link_local((&world.host, "mg0"), (&world.host, "mg0"));
        let mut attacks: Vec<Attack> = [
            "127.0.0.1:3001",
            "127.255.255.254:3001",
            "0.0.0.0:3001",
            "[::]:3001",
            "[::1]:3001",
            "[::ffff:127.0.0.1]:3001",
            "[::ffff:127.3.2.1]:3001",
            "[::ffff:0.0.0.0]:3001",
            "[::ffff:10.77.0.1]:3001",
            "10.78.0.1:3001",
            own.as_str(),
        ]
        .iter()
        .map(|target| (row, Attacker::local(world), connect(target, &[])))
        .collect();
        let near = link_local((&world.host, "mg0"), (&world.remote, "mg1"));
        for target in ["10.77.0.1:3001", "10.78.0.1:3001", "[::ffff:10.77.0.1]:3001", "[fd77::1]:3001", &near]
        {
            attacks.push((row, Attacker::remote(world), connect(target, &[])));
        }
        let near = link_local((&world.host, "jail0"), (&jail.netns, "jail1"));
        for target in
            ["10.77.0.1:3001", "10.78.0.1:3001", &format!("[{HOST_V6}]:3001"), "[fd78::1]:3001", &near]
        {
            attacks.push((row, jail.user(world), connect(target, &[])));
            attacks.push((row, jail.root(world), connect(target, &[])));
        }
        field.attack(&attacks);
    });
}

/// Connections whose first packet had data that the listener took.
fn early_data(netns: &Netns) -> u64 {
    let table = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat").expect("counters"));
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let at = names.split(' ').position(|name| name == "TCPFastOpenPassive").expect("the counter");
    values.split(' ').nth(at).and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn row_2_data_in_the_first_packet() {
    field(|field| {
        let Field { world, jail } = field;
        // Clients send and listeners take data in the first packet, without a cookie and without asking.
        for netns in [&world.host, &world.remote, &jail.netns] {
            netns.sysctl("ipv4/tcp_fastopen", "1543");
        }
        let row = "2 fast open";
        let attacks = from_everywhere(field, row, &["fastopen"]);
        let _server = world.server(&["[::]:3001"]);
        for (row, from, attack) in &attacks {
            assert_reaches(row, from, &crate::field::words(attack));
        }
        assert_eq!(early_data(&world.host), 4, "the server took data from each first packet");
        let _guard = world.guard();
        for (row, from, attack) in &attacks {
            let met = assert_guarded(row, from, &crate::field::words(attack));
            assert_eq!(met["syn_data"], true, "the first packet had data: {met}");
        }
        assert_eq!(early_data(&world.host), 8, "the guard took it");
    });
}

#[test]
fn row_2_multipath() {
    field(|field| field.attack(&from_everywhere(field, "2 multipath", &["mptcp"])));
}

#[test]
fn row_17_io_uring() {
    field(|field| {
        let Field { world, .. } = field;
        let mut attacks = from_everywhere(field, "17 io_uring", &["uring"]);
        // The kernel's own thread connects.
        attacks.extend(from_everywhere(field, "17 io_uring", &["uring-sqpoll"]));
        field.attack(&attacks);
        let _guard = world.guard();
        for how in ["uring", "uring-sqpoll"] {
            let met =
                assert_guarded("17 io_uring", &Attacker::local(world), &["connect", "127.0.0.1:3001", how]);
            assert_eq!(met["origin"]["pid"], met["client_pid"], "{met}");
            assert_eq!(met["origin"]["uid"], NOBODY, "{met}");
        }
    });
}

#[test]
fn options_of_the_clients_socket() {
    field(|field| {
        let Field { world, jail } = field;
        let row = "options";
        let privileged = |how: &[&str]| {
            vec![
                (row, Attacker::remote(world), connect(&format!("{HOST_V4}:3001"), how)),
                (row, jail.root(world), connect("10.78.0.1:3001", how)),
            ]
        };
        let mut attacks: Vec<Attack> = vec![
            (row, Attacker::local(world), connect("127.0.0.1:3001", &["device=lo"])),
            (row, Attacker::local(world), connect("[::1]:3001", &["device=lo"])),
            (row, Attacker::remote(world), connect("10.77.0.1:3001", &["device=mg1"])),
            (row, jail.user(world), connect("10.78.0.1:3001", &["device=jail1"])),
            (row, Attacker::local(world), connect("127.0.0.1:3001", &["freebind", "bind=127.9.9.9:0"])),
        ];
        attacks.extend(privileged(&["mark=1337"]));
        attacks.extend(privileged(&["transparent"]));
        attacks.extend(privileged(&["freebind"]));
        field.attack(&attacks);
    });
}

#[test]
fn the_protected_port_as_the_clients_own() {
    field(|field| {
        let Field { world, jail } = field;
        let row = "own port";
        let neighbour = format!("bind={NEIGHBOUR}:3001");
        field.attack(&[
            (row, Attacker::remote(world), connect("10.77.0.1:3001", &[&neighbour, "reuse", "patient"])),
            (row, jail.user(world), connect("10.78.0.1:3001", &["bind=10.78.0.2:3001", "reuse", "patient"])),
            (row, jail.root(world), connect("10.78.0.1:3001", &["bind=10.78.0.2:3001", "reuse", "patient"])),
        ]);
        // A server on one address leaves the others to everybody.
        let _server = world.server(&["127.0.0.1:3001"]);
        let from = Attacker::local(world);
        let outward = ["connect", "127.0.0.1:3001", "bind=127.0.0.2:3001", "reuse"];
        assert_reaches(row, &from, &outward);
        let _guard = world.guard();
        // The client is in the server's cgroup here, where the second wall drops answers to a protected port.
        let outcome = met(row, &from, &outward);
        assert!(outcome["server"] != true, "{outcome}");
        // A socket that connects to itself meets itself.
        for own in ["127.0.0.2:3001", "10.77.0.1:3001"] {
            let bind = format!("bind={own}");
            assert_stopped(row, &from, &["connect", own, &bind]);
        }
    });
}

#[test]
fn a_socket_on_a_protected_port_still_gets_out() {
    field(|field| {
        let Field { world, .. } = field;
        let _far = world.server_in(&world.remote, &["10.77.0.2:3001"]);
        let _guard = world.guard();
        let met = Attacker::local(world).run(&["connect", "10.77.0.2:3001", "bind=10.77.0.1:3001"]);
        assert_eq!(met["server"], true, "the guard is not in the way of other servers: {met}");
    });
}
