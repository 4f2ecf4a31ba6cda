//! Servers that listen with Multipath TCP, as programs in Go do by default.

use std::time::{Duration, Instant};

use guard_tests::cgroup::Cgroup;
use guard_tests::world::{Process, World, test};
use serde_json::{Value, json};

const ANY: &str = "0.0.0.0:3001";

fn port(status: &Value) -> &Value {
    &status["namespaces"][0]["ports"]["3001"]
}

fn pinned(guard: &mut Process, server: &Process) -> Value {
    let of_server = |status: &Value| port(status)["pinned"][0]["pid"].as_u64() == Some(server.pid().into());
    guard.ask_until("status", of_server)
}

#[test]
fn a_multipath_server_is_called_through_the_guard_alone() {
    test(|world| {
        let cgroup = Cgroup::new();
        let mut server = world.probe_in(&cgroup, &["multipath", ANY]);
        let met = world.client(&world.host, "127.0.0.1".parse().expect("an address"));
        assert_eq!(met["server"], true, "without a guard it is open: {met}");
        let mut guard = world.guard();
        for _ in 0..2 {
            let status = pinned(&mut guard, &server);
            assert_eq!(port(&status)["pinned"][0]["multipath"], true, "{status:#}");
            assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
            for ip in ["127.0.0.1", "127.0.0.9"] {
                let met = world.client(&world.host, ip.parse().expect("an address"));
                assert_eq!(met["guard"], true, "{ip}: {met}");
            }
            // And when it starts again, also with plain TCP in between.
            server.kill();
            guard.ask_until("status", |status| port(status)["pinned"] == json!([]));
            assert_eq!(guard.ask("dial 3001")["kind"], "NotConnected");
            let plain = world.probe_in(&cgroup, &["shared", ANY]);
            let status = pinned(&mut guard, &plain);
            assert_eq!(port(&status)["pinned"][0]["multipath"], false, "{status:#}");
            assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
            plain.kill();
            guard.ask_until("status", |status| port(status)["pinned"] == json!([]));
            server = world.probe_in(&cgroup, &["multipath", ANY]);
        }
        let claims = guard.ask("prove");
        let fails = |claim: &Value| claim["holds"] != true;
        assert!(!claims.as_array().expect("claims").iter().any(fails), "{claims:#}");
    });
}

/// The kernel finds a Multipath TCP server by its address, so one that listens on a more specific address is found first.
#[test]
fn a_stranger_before_a_multipath_server_is_not_spoken_to() {
    test(|world| {
        let cgroup = Cgroup::new();
        let server = world.probe_in(&cgroup, &["multipath", ANY]);
        let mut guard = world.guard();
        pinned(&mut guard, &server);
        guard.kill();
        let strange = Cgroup::new();
        let shadow = bind_once_free(world, &strange);
        let mut guard = world.guard();
        pinned(&mut guard, &server);
        let met = guard.ask("dial 3001");
        assert_eq!(met["kind"], "PermissionDenied", "{met}");
        shadow.kill();
        assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
    });
}

#[test]
fn a_multipath_server_in_the_root_cgroup_stays_closed_with_words() {
    test(|world| {
        let _server = world.server_kind("multipath", guard_tests::world::NOBODY, &[ANY]);
        let mut guard = world.guard();
        let status = guard.ask_until("status", |status| port(status)["unrecognised"] != json!([]));
        let words = port(&status)["unrecognised"][0].as_str().expect("words");
        assert!(words.contains("Multipath TCP") && words.contains("GODEBUG=multipathtcp=0"), "{words}");
        assert_eq!(guard.ask("dial 3001")["kind"], "NotConnected");
    });
}

/// Starts the shadow when the dead guard's hold of the port has ended.
fn bind_once_free(world: &World, cgroup: &Cgroup) -> Process {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match world.probe_in_outcome(cgroup, &["shadow", "127.0.0.1:3001"]) {
            Ok(shadow) => return shadow,
            Err(words) => assert!(Instant::now() < end, "{words}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
