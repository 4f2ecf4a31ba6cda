//! What the acceptor does at its limits, and what it says.

use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use guard_tests::world::{HOST_V4, PORT, Process, World, test};
use serde_json::json;

fn connect(world: &World) -> TcpStream {
    let stream = world.host.run(|| TcpStream::connect(("127.0.0.1", PORT)).expect("steered"));
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
    stream
}

/// Whether the guard answers; if not, it has closed the connection.
fn served(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 512]) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
        Err(error) => panic!("neither answered nor closed: {error}"),
    }
}

fn wait_for_log(guard: &Process, words: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    while !guard.log().contains(words) {
        assert!(Instant::now() < end, "{words:?} is not in the log:\n{}", guard.log());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn one_connection_above_the_limit_is_closed_at_once() {
    test(|world| {
        let mut guard = world.guard_with(&json!({"connections_max": 2}));
        let mut held = [connect(world), connect(world)];
        assert!(held.iter_mut().all(served));
        assert!(!served(&mut connect(world)), "a third one is served");
        assert_eq!(guard.ask("status")["counters"]["over_limit"], 1);
        drop(held);
        let end = Instant::now() + Duration::from_secs(10);
        while !served(&mut connect(world)) {
            assert!(Instant::now() < end, "places are not free again");
        }
    });
}

#[test]
fn one_peer_leaves_places_to_others() {
    test(|world| {
        let mut guard = world.guard_with(&json!({"connections_max": 8, "connections_per_peer_max": 2}));
        let mut held = [connect(world), connect(world)];
        assert!(held.iter_mut().all(served));
        assert!(!served(&mut connect(world)), "this user has its share");
        let v4 = || world.client(&world.remote, HOST_V4.parse().expect("an address"));
        assert_eq!(v4()["guard"], true, "another host has its own");
        let of_another = world.client(&world.host, [127, 0, 0, 1].into());
        assert_eq!(of_another["guard"], true, "and another user");
        assert_eq!(guard.ask("status")["counters"]["over_limit"], 1);
    });
}

#[test]
fn the_canary_is_answered_when_all_places_are_taken() {
    test(|world| {
        let mut guard = world.guard_with(&json!({"connections_max": 1}));
        let mut held = connect(world);
        assert!(served(&mut held));
        let claims = guard.ask("prove");
        assert!(claims.as_array().expect("a list").iter().all(|claim| claim["holds"] == true), "{claims:#}");
    });
}

#[test]
fn want_of_files_is_survived() {
    test(|world| {
        let mut guard = world.guard();
        guard.ask("starve");
        let mut waiting = connect(world);
        wait_for_log(&guard, "cannot accept");
        guard.ask("feed");
        assert!(served(&mut waiting), "the waiting connection is served after all");
    });
}

#[test]
fn the_words_of_the_kernel_programs_reach_the_log() {
    test(|world| {
        let mut guard = world.guard();
        guard.ask("loop 3001");
        wait_for_log(&guard, "an unregistered socket of the guard's cgroup connects");
        assert!(guard.log().contains("kernel: port 3001"), "{}", guard.log());
    });
}

#[test]
fn the_guards_own_proof_warns_of_nothing() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        guard.ask("prove");
        guard.ask("prove");
        // The same from somebody else. The programs' words come in their order, so all of the proof's came before.
        guard.ask("loop 3001");
        wait_for_log(&guard, "WARN kernel: port 3001: an unregistered socket");
        wait_for_log(&guard, "came back to it and was closed");
        assert_eq!(guard.log().matches("WARN").count(), 2, "{}", guard.log());
    });
}

#[test]
fn a_host_without_ipv6_is_guarded_too() {
    test(|world| {
        world
            .host
            .run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("a setting"));
        let _server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        assert_eq!(guard.ask("status")["namespaces"][0]["listeners"].as_array().map(Vec::len), Some(1));
        let claims = guard.ask("prove");
        assert!(claims.as_array().expect("a list").iter().all(|claim| claim["holds"] == true), "{claims:#}");
        assert_eq!(world.client(&world.host, "127.0.0.1".parse().expect("an address"))["guard"], true);
    });
}
