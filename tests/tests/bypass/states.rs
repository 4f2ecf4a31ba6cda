//! Rows 4, 5, 6 and 23: connections that began before the guard, and numbers that belong to others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use guard_tests::bypass::{Attacker, Jail, assert_guarded, assert_reaches, assert_stopped, met};
use guard_tests::world::{HOST_V4, NOBODY, PORT, World, test};
use serde_json::json;

use crate::field::{Field, connect, field, wait_for_server, words};

/// The guard's live upstream connections: who connects.
fn flows(world: &World) -> Vec<SocketAddr> {
    let data = MapData::from_pin(world.pins().join("maps/FLOWS")).expect("the pinned map");
    let flows: HashMap<_, [u8; 48], u64> = Map::HashMap(data).try_into().expect("the layout of the map");
    let source = |key: [u8; 48]| {
        let ip = <[u8; 16]>::try_from(&key[8..24]).expect("an address");
        let port = u16::from_ne_bytes([key[40], key[41]]);
        SocketAddr::new(std::net::IpAddr::from(ip).to_canonical(), port)
    };
    flows.keys().flatten().map(source).collect()
}

#[test]
fn row_4_a_connection_that_nobody_has_accepted_yet() {
    test(|world| {
        let listener = world.host.run(|| TcpListener::bind(("0.0.0.0", PORT)).expect("a free port"));
        let open = || {
            let mut stream =
                world.remote.run(|| TcpStream::connect((HOST_V4, PORT)).expect("a waiting server"));
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
            stream.write_all(b"early").expect("sent");
            stream
        };
        // Without a guard the server takes it and hears what comes.
        let mut client = open();
        let (mut server, _) = listener.accept().expect("the connection");
        client.write_all(b"late").expect("sent");
        let mut text = [0; 9];
        server.read_exact(&mut text).expect("both");
        assert_eq!(&text, b"earlylate");
        drop((client, server));

        let mut client = open();
        let guard = world.guard();
        // The client's end was reset.
        let ended = client.write_all(b"late").and_then(|()| client.read(&mut [0; 8]));
        assert!(ended.is_err(), "{ended:?}");
        listener.set_nonblocking(true).expect("a mode");
        // The server may find a dead connection and what came before the guard, but nothing later and no way to answer.
        if let Ok((mut server, _)) = listener.accept() {
            server.set_nonblocking(false).expect("a mode");
            let mut text = Vec::new();
            let ended = server.read_to_end(&mut text);
            println!(
                "4 accept queue: the server still reads {:?}: {ended:?}",
                String::from_utf8_lossy(&text)
            );
            assert!(!text.ends_with(b"late"));
            assert!(server.write_all(b"answer").is_err(), "no way back");
        }
        drop(guard);
    });
}

#[test]
fn row_4_a_handshake_that_stopped_halfway() {
    field(|field| {
        let Field { world, jail } = field;
        let _server = world.server(&["0.0.0.0:3001"]);
        let row = "4 half-open";
        let from = [
            (Attacker::remote(world), "10.77.0.1:3001", "device=mg1", "from=10.77.0.2:40001"),
            (jail.root(world), "10.78.0.1:3001", "device=jail1", "from=10.78.0.2:40002"),
        ];
        for (attacker, target, device, source) in &from {
            let mut half = attacker.start(&["half-open", target, device, source]);
            let met = half.ask("finish");
            assert_eq!(met["server"], true, "{row} from {} without a guard: {met}", attacker.name);
        }
        let halves: Vec<_> = from
            .iter()
            .map(|(attacker, target, device, source)| {
                let source = source.replace("4000", "5000");
                (attacker.name, attacker.start(&["half-open", target, device, &source]))
            })
            .collect();
        let mut guard = world.guard();
        for (name, mut half) in halves {
            let met = half.ask("finish");
            println!("{row} from {name}: {met}");
            assert_eq!(met["refused"], true, "{row} from {name}: {met}");
        }
        assert!(guard.ask("status")["namespaces"][0]["ended_at_start"].as_u64() >= Some(2));
    });
}

#[test]
fn row_5_the_numbers_of_a_live_connection_of_the_guard() {
    test(|world| {
        let server = world.server(&["0.0.0.0:3001"]);
        let from = Attacker::local(world);
        let row = "5 numbers";
        assert_reaches(row, &from, &["connect", "127.0.0.1:3001", "bind=127.0.0.1:45678", "reuse"]);
        let mut guard = world.guard();
        wait_for_server(&mut guard, &server);
        assert_eq!(guard.ask("hold 3001"), json!({"held": 1}));
        let source = flows(world)[0];
        for uid in [NOBODY, 0] {
            let from = Attacker::new(
                world,
                if uid == 0 { "root of the host" } else { "a user of the host" },
                &world.host,
                uid,
            );
            let bind = format!("bind={source}");
            let only = format!("ports={}", source.port());
            for how in [[bind.as_str(), "reuse"], [&bind, "freebind"], [&only, "reuse"]] {
                let met = assert_stopped(row, &from, &["connect", "127.0.0.1:3001", how[0], how[1]]);
                assert!(met["error"].is_string(), "{met}");
            }
        }
        // One number differs: it leads to the guard.
        let only = format!("ports={}", source.port());
        assert_guarded(row, &from, &["connect", "127.0.0.8:3001", &only]);
        assert_guarded(row, &from, &["connect", "127.0.0.1:3001", &only, "bind=127.0.0.5:0"]);
        // And once the guard's connection is over, its numbers are worth nothing.
        drop(guard);
        let mut guard = world.guard();
        wait_for_server(&mut guard, &server);
        let after = met(row, &from, &["connect", "127.0.0.1:3001", &format!("bind={source}"), "reuse"]);
        assert!(after["server"] != true, "{after}");
    });
}

#[test]
fn row_6_the_numbers_of_a_connection_of_the_guard_in_another_namespace() {
    test(|world| {
        let jail = Jail::new();
        let _here = world.server(&["0.0.0.0:3001"]);
        let _there = world.server_in(&jail.netns, &["0.0.0.0:3001"]);
        let row = "6 numbers elsewhere";
        let attack = |source: SocketAddr| connect("127.0.0.1:3001", &[&format!("bind={source}"), "reuse"]);
        for from in [jail.user(world), jail.root(world)] {
            assert_reaches(row, &from, &words(&attack("127.0.0.1:45678".parse().expect("an address"))));
        }
        let mut guard = world.guard_for(&json!([
            {"name": "here", "port": PORT},
            {"name": "demo", "port": PORT, "in": {"netns": jail.netns.path()}},
        ]));
        assert_eq!(guard.ask("hold 3001"), json!({"held": 1}));
        let sources = flows(world);
        assert_eq!(sources.len(), 1);
        let place = guard.ask("status")["namespaces"][0]["place"].clone();
        // The guard holds a connection in one of both; the same numbers are free in the other.
        let free: Vec<Attacker> = if place == "host" {
            vec![jail.user(world), jail.root(world)]
        } else {
            vec![Attacker::local(world)]
        };
        for from in free {
            let met = from.run(&words(&attack(sources[0])));
            println!("{row} from {}: {met}", from.name);
            assert_eq!(met["guard"], true, "{row} from {}: {met}", from.name);
        }
    });
}

#[test]
fn row_23_a_connection_from_before_that_is_made_again() {
    field(|field| {
        let Field { world, jail } = field;
        let _server = world.server(&["0.0.0.0:3001"]);
        let from = [(Attacker::remote(world), "10.77.0.1:3001"), (jail.root(world), "10.78.0.1:3001")];
        let freeze = || {
            from.iter()
                .map(|(attacker, target)| (attacker.name, attacker.start(&["repair", target])))
                .collect::<Vec<_>>()
        };
        for (name, mut frozen) in freeze() {
            let met = frozen.ask("thaw");
            assert_eq!(met["server"], true, "23 repair from {name} without a guard: {met}");
        }
        let frozen = freeze();
        let _guard = world.guard();
        for (name, mut frozen) in frozen {
            let met = frozen.ask("thaw");
            println!("23 repair from {name}: {met}");
            assert!(met["server"] != true && met["error"].is_string(), "{name}: {met}");
        }
    });
}

#[test]
fn a_socket_in_time_wait_does_not_keep_the_old_way_open() {
    test(|world| {
        // The server closes first, so that its end waits.
        let listener = world.host.run(|| TcpListener::bind(("0.0.0.0", PORT)).expect("a free port"));
        let attack = ["connect", "10.77.0.1:3001", "bind=10.77.0.2:40404", "reuse"];
        let from = Attacker::remote(world);
        let wait = || {
            let client = from.start(&["keep", "10.77.0.1:3001", "bind=10.77.0.2:40404", "reuse"]);
            drop(listener.accept().expect("a connection"));
            // Its last packet is answered by the client's end.
            drop(client);
            let table =
                || world.host.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp").expect("sockets"));
            while !table().lines().any(|line| line.contains(":0BB9 ") && line.contains(" 06 ")) {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        wait();
        let server = std::thread::scope(|scope| {
            let greet = scope
                .spawn(|| listener.accept().expect("the numbers are used again").0.write_all(b"server\n"));
            let met = from.run(&attack);
            greet.join().expect("no panic").expect("sent");
            met
        });
        assert_eq!(server["server"], true, "without a guard: {server}");
        let _guard = world.guard();
        assert_guarded("TIME_WAIT", &from, &attack);
    });
}

#[test]
fn cookies_instead_of_half_open_connections() {
    field(|field| {
        let Field { world, jail } = field;
        // Always: the last packet of the handshake finds no request and looks for a listener again.
        world.host.sysctl("ipv4/tcp_syncookies", "2");
        let row = "SYN cookies";
        let mut attacks: Vec<_> = [
            (Attacker::local(world), "127.0.0.1:3001"),
            (Attacker::local(world), "[::1]:3001"),
            (Attacker::remote(world), "10.77.0.1:3001"),
            (jail.user(world), "10.78.0.1:3001"),
        ]
        .into_iter()
        .map(|(from, target)| (row, from, connect(target, &[])))
        .collect();
        let crafted = ["crafted", "10.78.0.1:3001", "device=jail1", "from=10.78.0.2:40003"];
        attacks.push((row, jail.root(world), crafted.map(str::to_owned).to_vec()));
        field.attack(&attacks);
        // A cookie from before the guard is good for a connection to the guard alone.
        let server = world.server(&["0.0.0.0:3001"]);
        let mut half =
            jail.root(world).start(&["half-open", "10.78.0.1:3001", "device=jail1", "from=10.78.0.2:40004"]);
        let mut guard = world.guard();
        wait_for_server(&mut guard, &server);
        let met = half.ask("finish");
        println!("{row} from before: {met}");
        assert_ne!(met["server"], true, "{met}");
    });
}
