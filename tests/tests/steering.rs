//! Where connections to a protected port end: every spelling of the host, every way to bind, from here and from afar.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use guard_tests::world::{HOST_V4, HOST_V6, NOBODY, PORT, World, test};
use serde_json::{Value, json};

/// What a server may be bound to, and which of the targets below it takes by itself.
const BINDS: [(&str, [bool; 8]); 6] = [
    //             127.0.0.1 ::1   mapped 127.0.0.9 own v4 own v6 remote v4 remote v6
    ("0.0.0.0:3001", [true, false, true, true, true, false, true, false]),
    ("[::]:3001", [true, true, true, true, true, true, true, true]),
    ("127.0.0.1:3001", [true, false, true, false, false, false, false, false]),
    ("[::1]:3001", [false, true, false, false, false, false, false, false]),
    ("10.77.0.1:3001", [false, false, false, false, true, false, true, false]),
    ("[fd77::1]:3001", [false, false, false, false, false, true, false, true]),
];

/// Address, and whether the client is on the other host.
const TARGETS: [(&str, bool); 8] = [
    ("127.0.0.1", false),
    ("::1", false),
    ("::ffff:127.0.0.1", false),
    ("127.0.0.9", false),
    (HOST_V4, false),
    (HOST_V6, false),
    (HOST_V4, true),
    (HOST_V6, true),
];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn client(world: &World, (target, remote): (&str, bool)) -> Value {
    world.client(if remote { &world.remote } else { &world.host }, ip(target))
}

#[test]
fn without_a_guard_each_server_is_reached_where_it_is_bound() {
    test(|world| {
        for (bind, reached) in BINDS {
            let _server = world.server(&[bind]);
            for (target, reached) in TARGETS.into_iter().zip(reached) {
                let met = client(world, target);
                assert_eq!(met["server"] == true, reached, "bound to {bind}, {target:?}: {met}");
                assert_eq!(met["refused"] == true, !reached, "bound to {bind}, {target:?}: {met}");
            }
        }
    });
}

#[test]
fn with_a_guard_every_connection_ends_at_it() {
    test(|world| {
        for (bind, _) in BINDS {
            let _server = world.server(&[bind]);
            let mut guard = world.guard();
            for target in TARGETS {
                let met = client(world, target);
                let context = format!("bound to {bind}, {target:?}: {met:#}");
                assert_eq!(met["guard"], true, "{context}");
                assert_eq!(met["server"], "demo", "{context}");
                let meant = SocketAddr::new(ip(target.0).to_canonical(), PORT);
                assert_eq!(met["original_dst"], meant.to_string(), "{context}");
                let from: SocketAddr =
                    met["client"].as_str().expect("an address").parse().expect("an address");
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                assert_eq!(met["peer"], from.to_string(), "{context}");
                if target.1 {
                    assert_eq!(met["origin"], "remote", "{context}");
                } else {
                    assert_eq!(met["origin"]["pid"], met["client_pid"], "{context}");
                    assert_eq!(met["origin"]["uid"], NOBODY, "{context}");
                    assert_eq!(met["origin"]["gid"], NOBODY, "{context}");
                    assert_eq!(met["origin"]["comm"], "steer-probe", "{context}");
                }
            }
            assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}), "bound to {bind}");
        }
    });
}

#[test]
fn every_claim_is_proven() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        assert_eq!(guard.ask("status")["protected"], false, "nothing is proven yet");
        let claims = guard.ask("prove");
        let claims = claims.as_array().expect("a list");
        for claim in claims {
            assert_eq!(claim["holds"], true, "{claim:#}");
        }
        for words in [
            "last word",
            "127.0.0.9:3001 leads",
            "[::ffff:127.0.0.1]:3001 leads",
            "10.77.0.1:3001 leads",
            "UDP",
            "private port",
            "unregistered",
            "reaches the server",
        ] {
            let found =
                claims.iter().any(|claim| claim["name"].as_str().is_some_and(|name| name.contains(words)));
            assert!(found, "no claim about {words:?}: {claims:#?}");
        }
        assert_eq!(guard.ask("status")["protected"], true);
    });
}

#[test]
fn a_claim_fails_when_another_program_has_the_last_word() {
    test(|world| {
        let mut guard = world.guard();
        let intruder = World::new();
        let other = intruder.guard_in(&world.host);
        let claims = guard.ask("prove");
        let broken: Vec<_> =
            claims.as_array().expect("a list").iter().filter(|claim| claim["holds"] == false).collect();
        assert!(broken.iter().any(|claim| claim["name"] == "our program has the last word"), "{claims:#}");
        assert!(
            broken.iter().any(|claim| claim["name"] == "127.0.0.1:3001 leads to the guard"),
            "{claims:#}"
        );
        assert_eq!(guard.ask("status")["protected"], false);
        drop(other);
        intruder.unload();
        // The kernel frees a link a moment after its last pin and process are gone.
        guard.ask_until("prove", |claims| {
            claims.as_array().expect("a list").iter().all(|claim| claim["holds"] == true)
        });
    });
}

#[test]
fn udp_to_a_protected_port_is_refused() {
    test(|world| {
        let echo: UdpSocket = world.host.run(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("a free port"));
        echo.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
        let send = |remote: bool| {
            let netns = if remote { &world.remote } else { &world.host };
            netns.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
                socket.connect((HOST_V4, PORT)).expect("an address");
                socket.send(b"ask").expect("sent");
                socket
            })
        };
        for remote in [false, true] {
            let _socket = send(remote);
            let mut bytes = [0; 8];
            assert_eq!(echo.recv(&mut bytes).expect("without a guard it arrives"), 3);
        }
        let mut guard = world.guard();
        for remote in [false, true] {
            let error = send(remote).recv(&mut [0; 8]).expect_err("nobody answers");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        assert_eq!(guard.ask("status")["counters"]["refused_udp"], 2);
    });
}

#[test]
fn connections_from_before_the_guard_are_ended() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001", "[::1]:3001"]);
        let connect = |remote: bool, ip: &str| {
            let netns = if remote { &world.remote } else { &world.host };
            let mut stream = netns.run(|| TcpStream::connect((ip, PORT)).expect("the server is open"));
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
            stream.write_all(b"x").expect("sent");
            let mut bytes = [0; 8];
            stream.read_exact(&mut bytes).expect("the greeting and the echo");
            assert_eq!(&bytes, b"server\nx");
            stream
        };
        let streams = [connect(false, "127.0.0.1"), connect(false, "::1"), connect(true, HOST_V4)];
        let mut guard = world.guard();
        for mut stream in streams {
            let ended = stream.write_all(b"y").and_then(|()| stream.read(&mut [0; 8]));
            assert!(matches!(&ended, Ok(0) | Err(_)), "still open: {ended:?}");
            let timed_out = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            assert!(!timed_out, "the connection hangs instead of ending");
        }
        assert_eq!(guard.ask("status")["namespaces"][0]["ended_at_start"], 3);
    });
}

#[test]
fn an_unregistered_socket_of_the_guard_is_steered_and_found_out() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        assert_eq!(guard.ask("loop 3001"), json!({"read": "", "ended": true}));
        let counters = guard.ask("status")["counters"].clone();
        assert_eq!((&counters["loops"], &counters["not_registered"]), (&json!(1), &json!(1)));
        assert_eq!(counters["own"], 0, "the server was not reached");
    });
}

/// A signal is only on its way when `kill` returns, to each thread.
fn wait_until_stopped(pid: u32) {
    let is_stopped = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the guard lives");
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('T'))
        })
    };
    while !is_stopped() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_local_client_whose_record_is_lost_is_unknown_and_not_remote() {
    use aya::maps::{HashMap, Map, MapData};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    test(|world| {
        let guard = world.guard();
        let pid = Pid::from_raw(i32::try_from(guard.pid()).expect("a pid"));
        kill(pid, Signal::SIGSTOP).expect("stopping the guard");
        wait_until_stopped(guard.pid());
        // The kernel completes the handshake; the guard has not looked yet.
        let mut stream = world.host.run(|| TcpStream::connect(("127.0.0.1", PORT)).expect("steered"));
        let data = MapData::from_pin(world.pins().join("maps/WHO")).expect("the pinned map");
        let mut who: HashMap<_, [u8; 48], [u8; 56]> =
            Map::LruHashMap(data).try_into().expect("the layout of ABI 1");
        let flows: Vec<_> = who.keys().map(|key| key.expect("a key")).collect();
        assert_eq!(flows.len(), 1);
        who.remove(&flows[0]).expect("removed");
        kill(pid, Signal::SIGCONT).expect("waking the guard");
        let mut text = [0; 512];
        let read = stream.read(&mut text).expect("an answer");
        let met: Value = serde_json::from_slice(&text[..read]).expect("JSON");
        assert_eq!(met["origin"], "unknown-local");
    });
}
