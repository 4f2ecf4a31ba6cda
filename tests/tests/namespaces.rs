//! Servers in other network namespaces: containers, units, and what publishes their ports.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, PerCpuHashMap};
use guard_common::{Port, Tally};
use guard_tests::bypass::tool;
use guard_tests::cgroup::Cgroup;
use guard_tests::locked::eventually;
use guard_tests::process::START_LIMIT;
use guard_tests::world::{HOST_V4, NOBODY, Netns, PORT, Process, REMOTE_V4, World, test};
use nix::mount::MsFlags;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// A guard in `host` for a server in `remote`.
fn guard_of_remote(world: &World) -> Process {
    world.guard_for(&json!([{"name": "demo", "port": PORT, "in": {"netns": world.remote.path()}}]))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn all_hold(claims: &Value) -> bool {
    claims
        .as_array()
        .is_some_and(|claims| !claims.is_empty() && claims.iter().all(|claim| claim["holds"] == true))
}

#[test]
fn a_server_in_another_namespace_is_reached_through_the_guard_alone() {
    test(|world| {
        let _server = world.server_in(&world.remote, &["0.0.0.0:3001", "[::1]:3001"]);
        assert_eq!(world.client(&world.host, ip(REMOTE_V4))["server"], true, "without a guard");
        let mut guard = guard_of_remote(world);
        for (from, to) in [(&world.remote, "127.0.0.1"), (&world.remote, REMOTE_V4), (&world.host, REMOTE_V4)]
        {
            let met = world.client(from, ip(to));
            assert_eq!(met["guard"], true, "to {to}: {met}");
            assert_eq!(met["original_dst"], format!("{to}:{PORT}"));
        }
        let inside = world.client(&world.remote, ip("::1"));
        assert_eq!((&inside["guard"], &inside["origin"]["uid"]), (&json!(true), &json!(NOBODY)), "{inside}");
        let claims = guard.ask("prove");
        assert!(all_hold(&claims), "{claims:#}");
        assert_eq!(guard.ask("dial 3001")["answer"], "server");
        guard.kill();
        assert_eq!(world.client(&world.host, ip(REMOTE_V4))["refused"], true, "a dead guard's port");
        assert_eq!(world.client(&world.remote, ip("127.0.0.1"))["refused"], true, "a dead guard's port");
        let _next = guard_of_remote(world);
        assert_eq!(world.client(&world.host, ip(REMOTE_V4))["guard"], true, "the next guard");
    });
}

#[test]
fn the_same_port_of_two_namespaces_is_two_servers() {
    test(|world| {
        let _here = world.server(&["0.0.0.0:3001"]);
        let _there = world.server_in(&world.remote, &["0.0.0.0:3001"]);
        let mut guard = world.guard_for(&json!([
            {"name": "here", "port": PORT},
            {"name": "there", "port": PORT, "in": {"netns": world.remote.path()}},
        ]));
        assert_eq!(world.client(&world.remote, ip(HOST_V4))["server"], "here");
        assert_eq!(world.client(&world.host, ip(REMOTE_V4))["server"], "there");
        let claims = guard.ask("prove");
        assert!(all_hold(&claims), "{claims:#}");
    });
}

#[test]
fn connections_of_a_namespace_from_before_the_guard_are_ended() {
    test(|world| {
        let _server = world.server_in(&world.remote, &["0.0.0.0:3001"]);
        let mut old =
            world.host.run(|| std::net::TcpStream::connect((REMOTE_V4, PORT)).expect("no guard yet"));
        let mut guard = guard_of_remote(world);
        assert_eq!(guard.ask("status")["namespaces"][0]["ended_at_start"], 1);
        guard_tests::probe::assert_ended(&mut old);
    });
}

#[test]
fn a_namespace_that_cannot_be_served_is_closed_all_the_same() {
    test(|world| {
        let _server = world.server_in(&world.remote, &["0.0.0.0:3001"]);
        // Root of a container could do this: the guard's listeners need loopback.
        world.remote.ip("addr flush dev lo");
        assert_eq!(world.client(&world.host, ip(REMOTE_V4))["server"], true, "without a guard");
        let datagrams = world.remote.run(|| UdpSocket::bind(("0.0.0.0", PORT)).expect("a free port"));
        datagrams.set_read_timeout(Some(Duration::from_secs(2))).expect("a time-out");
        let send = || {
            world.host.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                socket.send_to(b"ask", (REMOTE_V4, PORT)).expect("sent");
            });
            datagrams.recv(&mut [0; 8])
        };
        assert_eq!(send().expect("without a guard it arrives"), 3);
        let mut guard = guard_of_remote(world);
        let status = guard.ask("status");
        assert_eq!((&status["protected"], &status["namespaces"]), (&json!(false), &json!([])), "{status:#}");
        assert!(status["failed"][0].as_str().is_some_and(|words| words.contains("`lo`")), "{status:#}");
        assert_eq!(world.client(&world.host, ip(REMOTE_V4))["refused"], true);
        assert!(send().is_err(), "UDP is closed too");
        // Each look tries again, and finds what the attempt before has left.
        std::thread::sleep(Duration::from_secs(2));
        let status = guard.ask("status");
        assert!(status["failed"][0].as_str().is_some_and(|words| words.contains("`lo`")), "{status:#}");
        world.remote.ip("addr add 127.0.0.1/8 dev lo");
        let status = guard.ask_until("status", |status| status["namespaces"] != json!([]));
        world.note(&status);
        assert_eq!(world.client(&world.host, ip(REMOTE_V4))["guard"], true);
    });
}

/// A container as engines make them: a cgroup with its id in its name, a network namespace, a server in both.
struct Container<'w> {
    cgroup: Cgroup,
    netns: Netns,
    world: &'w World,
}

impl<'w> Container<'w> {
    fn new(world: &'w World, id: &str) -> Self {
        Self { cgroup: Cgroup::named(&format!("docker-{id}.scope")), netns: Netns::new(), world }
    }

    fn server(&self) -> Process {
        let server = self.world.probe_inside(&self.netns, &self.cgroup, &["server", "0.0.0.0:3001"]);
        server.expect("the server starts")
    }
}

#[test]
fn a_container_is_protected_when_it_comes_and_let_go_when_it_is_gone() {
    test(|world| {
        let id = format!("{:064x}", u128::from(std::process::id()) << 64 | 0x00c0_ffee);
        let mut guard =
            world.guard_for(&json!([{"name": "boxed", "port": PORT, "in": {"container": &id[..48]}}]));
        assert_eq!(guard.ask("status")["namespaces"], json!([]), "nothing is there yet");
        for round in 0..2 {
            let container = Container::new(world, &id);
            let server = container.server();
            let status = guard.ask_until("status", |status| {
                status["protected"] == true && status["namespaces"] != json!([])
            });
            world.note(&status);
            assert_eq!(status["namespaces"][0]["place"], format!("container {}", &id[..12]), "round {round}");
            assert_eq!(world.client(&container.netns, ip("127.0.0.1"))["server"], "boxed");
            // The server starts again in the same namespace.
            drop(server);
            let server = container.server();
            guard.ask_until("dial 3001", |met| met["answer"] == "server");
            drop(server);
            drop(container);
            let status = guard.ask_until("status", |status| status["namespaces"] == json!([]));
            assert_eq!(status["failed"], json!([]));
        }
        // It is gone from `status` a moment earlier.
        eventually("no link of it is left", || {
            let links: Vec<_> = guard_tests::residue::files(&world.pins().join("links"));
            !links.iter().any(|link| link.to_string_lossy().contains("steer-"))
        });
    });
}

/// A guard for a server in the unit of this cgroup, which may have that many namespaces.
fn guard_of_unit(world: &World, cgroup: &Cgroup, namespaces_max: usize) -> Process {
    let unit = cgroup.path().file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let guard = world.guard_where(|config| {
        config["servers"] = json!([{"name": "demo", "port": PORT, "in": {"unit": unit}}]);
        config["limits"] = json!({"server_namespaces_max": namespaces_max});
    });
    guard.expect("the guard starts")
}

fn unit(name: &str) -> Cgroup {
    Cgroup::named(&format!("mg-{}-{name}.service", std::process::id()))
}

#[test]
fn of_too_many_namespaces_those_with_a_server_are_protected_and_the_others_are_told() {
    const MAX: usize = 3;
    test(|world| {
        let cgroup = unit("many");
        let spaces: Vec<Netns> = (0..2 * MAX).map(|_| Netns::new()).collect();
        let idle = |netns| world.probe_inside(netns, &cgroup, &["worker"]).expect("an idle process");
        let mut processes: Vec<Process> = spaces.iter().map(idle).collect();
        let mut guard = guard_of_unit(world, &cgroup, MAX);
        let words = |status: &Value| status["failed"].to_string();
        let status = guard.ask_until("status", |status| words(status).contains("server_namespaces_max"));
        assert!(words(&status).contains("nobody listens"), "{status:#}");
        assert_eq!(status["namespaces"].as_array().map(Vec::len), Some(MAX));
        let served = |netns: &Netns| world.client(netns, ip("127.0.0.1"))["guard"] == true;
        // Servers come where the guard is not, and in all but one.
        for (at, (process, netns)) in processes.iter_mut().zip(&spaces).rev().take(MAX).enumerate() {
            assert_eq!(process.ask("listen 0.0.0.0:3001"), json!({"done": true}));
            let end = Instant::now() + START_LIMIT;
            while !served(netns) {
                assert!(Instant::now() < end, "namespace {at} of those that matter is not protected");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        // Empty ones make room.
        guard.ask_until("status", |status| status["namespaces"].as_array().map(Vec::len) == Some(MAX));
        assert_eq!(spaces.iter().filter(|netns| served(netns)).count(), MAX);
        // One more than there is room for.
        assert_eq!(processes[0].ask("listen 0.0.0.0:3001"), json!({"done": true}));
        let status = guard.ask_until("status", |status| words(status).contains("in 1 of those"));
        assert_eq!(status["protected"], false);
        processes.clear();
        guard
            .ask_until("status", |status| status["failed"] == json!([]) && status["namespaces"] == json!([]));
    });
}

#[test]
fn connections_that_go_out_from_a_protected_port_do_not_keep_it_from_being_protected() {
    test(|world| {
        let _server = world.server_in(&world.remote, &["127.0.0.1:3001"]);
        let listener = world.host.run(|| TcpListener::bind((HOST_V4, 9000)).expect("a free port"));
        let (is_over, went) = (AtomicBool::new(false), AtomicUsize::new(0));
        let go_out = || -> std::io::Result<()> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_linger(Some(Duration::ZERO))?;
            socket.bind(&SocketAddr::from((ip(REMOTE_V4), PORT)).into())?;
            socket
                .connect_timeout(&SocketAddr::from((ip(HOST_V4), 9000)).into(), Duration::from_millis(100))?;
            // Long enough to be seen.
            std::thread::sleep(Duration::from_millis(50));
            Ok(())
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                world.remote.run(|| {
                    // Always another one, from the protected port to a place elsewhere.
                    while !is_over.load(Ordering::Relaxed) {
                        // Once it stands, the second wall keeps answers from the port.
                        if go_out().is_ok() {
                            went.fetch_add(1, Ordering::Relaxed);
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                });
            });
            scope.spawn(|| {
                listener.set_nonblocking(true).expect("not to wait");
                let mut open = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    open.extend(listener.accept());
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let mut guard = guard_of_remote(world);
            let status = guard.ask("status");
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(status["failed"], json!([]), "{status:#}");
            assert!(went.load(Ordering::Relaxed) > 10);
            assert_eq!(world.client(&world.host, ip(REMOTE_V4))["guard"], true);
        });
    });
}

#[test]
fn a_namespace_whose_name_is_gone_stays_closed_while_a_process_lives_in_it() {
    test(|world| {
        // What `ip netns add` does, without leaving a name on this host.
        let name = world.dir().join("named");
        fs::write(&name, "").expect("a file to mount over");
        let none = None::<&str>;
        nix::mount::mount(Some(&world.remote.path()), &name, none, MsFlags::MS_BIND, none).expect("a name");
        let _server = world.server_in(&world.remote, &["0.0.0.0:3001"]);
        let mut guard = world.guard_for(&json!([{"name": "demo", "port": PORT, "in": {"netns": name}}]));
        nix::mount::umount(&name).expect("without a name");
        // Longer than a deserted namespace is kept.
        std::thread::sleep(Duration::from_secs(4));
        assert_eq!(world.client(&world.host, ip(REMOTE_V4))["guard"], true);
        assert_eq!(guard.ask("status")["namespaces"].as_array().map(Vec::len), Some(1));
    });
}

#[test]
fn a_dead_namespace_of_a_former_guard_is_cleared_away() {
    test(|world| {
        let netns = Netns::new();
        let place = json!({"netns": netns.path()});
        world.guard_for(&json!([{"name": "demo", "port": PORT, "in": place}])).kill();
        let steered = || {
            let links = guard_tests::residue::files(&world.pins().join("links"));
            links.iter().filter(|link| link.to_string_lossy().contains("steer-")).count()
        };
        assert_eq!(steered(), 1, "the dead guard's port is closed");
        drop(netns);
        let _next = world.guard_for(&json!([{"name": "demo", "port": PORT, "in": place}]));
        let end = Instant::now() + START_LIMIT;
        while steered() > 0 {
            assert!(Instant::now() < end, "the pin of a dead namespace stays");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

#[test]
fn what_was_counted_in_namespaces_that_are_gone_takes_no_room() {
    test(|world| {
        let id = format!("{:064x}", u128::from(std::process::id()) << 64 | 0x7a11);
        let mut guard = world.guard_for(&json!([{"name": "boxed", "port": PORT, "in": {"container": id}}]));
        let counted = || {
            let map = MapData::from_pin(world.pins().join("maps/TALLY")).expect("the counters");
            let map: PerCpuHashMap<_, Port, Tally> =
                Map::PerCpuHashMap(map).try_into().expect("a map of ports");
            map.keys().count()
        };
        for _ in 0..2 {
            let container = Container::new(world, &id);
            let server = container.server();
            guard.ask_until("status", |status| status["namespaces"] != json!([]));
            assert_eq!(world.client(&container.netns, ip("127.0.0.1"))["guard"], true);
            assert_eq!(counted(), 1);
            world.note(&guard.ask("status"));
            drop((server, container));
            guard.ask_until("status", |status| status["namespaces"] == json!([]));
            let end = Instant::now() + Duration::from_secs(30);
            while counted() > 0 {
                assert!(Instant::now() < end, "the counts of a dead namespace stay");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
}

#[test]
fn claims_that_do_not_hold_are_tried_again() {
    test(|world| {
        let link = world.dir().join("container");
        let mut guard = world.guard_for(&json!([{"name": "demo", "port": PORT, "in": {"netns": link}}]));
        let netns = Netns::new();
        let shut = "add table inet shut; add chain inet shut in { type filter hook input priority 0; }; \
                    add rule inet shut in tcp dport 3001 drop";
        assert_eq!(netns.run(|| tool("nft", &[shut]))["done"], true);
        let _server = world.server_in(&netns, &["0.0.0.0:3001"]);
        std::os::unix::fs::symlink(netns.path(), &link).expect("a link");
        let mut fail = |wanted: bool| {
            eventually(&format!("claims fail: {wanted}"), || {
                let status = guard.ask("status");
                world.note(&status);
                let claims = &status["claims"];
                claims.as_array().is_some_and(|all| !all.is_empty()) && all_hold(claims) != wanted
            });
        };
        fail(true);
        assert_eq!(netns.run(|| tool("nft", &["delete table inet shut"]))["done"], true);
        fail(false);
    });
}

#[test]
fn many_namespaces_come_and_go_and_leave_nothing() {
    // The full number: `cargo xtask namespaces`.
    let rounds = guard_tests::many::run(12, 2, |_, _| {}).expect("no leak");
    assert_eq!(rounds.len(), 2);
    assert!(rounds[0].with.files > rounds[0].after.files, "the guard had listeners there: {rounds:?}");
}

#[test]
fn thousands_of_ports_of_one_server_are_protected() {
    const FIRST: u16 = 10_000;
    const PORTS: u16 = 4096;
    test(|world| {
        let ports: Vec<u16> = (FIRST..FIRST + PORTS).collect();
        let addresses: Vec<String> = ports.iter().map(|port| format!("0.0.0.0:{port}")).collect();
        let _server = world.server_of(&addresses);
        let servers: Vec<Value> =
            ports.iter().map(|port| json!({"name": format!("demo-{port}"), "port": port})).collect();
        let mut guard = world.guard_for(&json!(servers));
        let status = guard.ask("status");
        let pinned = status["namespaces"][0]["ports"].as_object().expect("ports");
        let count = pinned.values().filter(|port| port["pinned"][0]["family"] == 4).count();
        assert_eq!(count, usize::from(PORTS), "each server is pinned");
        for port in ports.iter().step_by(97) {
            let met = world.host.run(|| guard_tests::probe::connect(([127, 0, 0, 1], *port).into()));
            assert_eq!(
                (&met["guard"], &met["server"]),
                (&json!(true), &json!(format!("demo-{port}"))),
                "{met}"
            );
            assert_eq!(guard.ask(&format!("dial {port}"))["answer"], "server");
        }
    });
}
