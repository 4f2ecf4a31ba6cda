//! Who may bind a protected port.

use std::time::{Duration, Instant};

use guard_tests::cgroup::Cgroup;
use guard_tests::world::{NOBODY, Process, World, test};
use serde_json::{Value, json};

/// What `bind` says to who may not.
const REFUSED: &str = "Operation not permitted";

fn pinned(guard: &mut Process, server: &Process) -> Value {
    guard.ask_until("status", |status| {
        status["namespaces"][0]["ports"]["3001"]["pinned"][0]["pid"].as_u64() == Some(server.pid().into())
    })
}

fn held(guard: &mut Process, by: &Cgroup) {
    guard.ask_until("status", |status| status["namespaces"][0]["holders"]["3001"] == json!(by.path()));
}

#[test]
fn without_a_guard_a_stranger_of_the_same_user_binds_beside_the_server() {
    test(|world| {
        let elsewhere = Cgroup::new();
        let _server = world.probe_in(&elsewhere, &["shared", "0.0.0.0:3001"]);
        let strange = Cgroup::new();
        for bind in ["127.0.0.1:3001", "0.0.0.0:3001"] {
            world.probe_in(&strange, &["shadow", bind]);
        }
        let _guard = world.guard();
    });
}

#[test]
fn with_a_guard_only_the_servers_cgroup_binds_its_port() {
    test(|world| {
        let cgroup = Cgroup::new();
        let server = world.probe_in(&cgroup, &["shared", "0.0.0.0:3001", "[::1]:3001"]);
        let mut guard = world.guard();
        pinned(&mut guard, &server);
        held(&mut guard, &cgroup);
        let strange = Cgroup::new();
        for bind in ["127.0.0.1:3001", "0.0.0.0:3001", "[::1]:3001", "[::]:3001", "[::ffff:127.0.0.1]:3001"] {
            let words = world.probe_in_outcome(&strange, &["shadow", bind]).expect_err(bind);
            assert!(words.contains(REFUSED), "{bind}: {words}");
        }
        let status = guard.ask("status");
        assert_eq!(status["namespaces"][0]["tallies"]["3001"]["binds"], 5, "{status:#}");
        assert_eq!(status["counters"]["bind_refused"], 5, "{status:#}");
        let told = guard.ask_until("denied", |told| told.as_array().is_some_and(|told| told.len() == 5));
        let first = &told[0];
        assert_eq!((&first["reason"], &first["uid"]), (&json!("bind"), &json!(NOBODY)), "{first:#}");
        assert_eq!(first["cgroup_id"], strange.id(), "{first:#}");
        assert_eq!((&first["address"], &first["comm"]), (&json!("127.0.0.1:3001"), &json!("steer-probe")));
        // The server's own, in a cgroup below its own too; and other ports are nobody's.
        let child = cgroup.child("worker");
        world.probe_in(&child, &["shared", "127.0.0.1:3001"]);
        world.probe_in(&strange, &["server", "127.0.0.1:3002"]);
        drop(server);
    });
}

/// Half of what a hold outlives its guard for: it was lifted, and did not end by itself.
const RESTARTED_WITHIN: Duration = Duration::from_secs(5);

/// A service manager ends the server, makes its cgroup anew and starts it; it must not meet the old one's hold.
#[test]
fn a_server_that_starts_again_in_a_new_cgroup_is_not_locked_out() {
    test(|world| {
        let cgroup = Cgroup::new();
        let mut server = world.probe_in(&cgroup, &["server", "127.0.0.1:3001"]);
        let mut guard = world.guard();
        for _ in 0..5 {
            pinned(&mut guard, &server);
            held(&mut guard, &cgroup);
            server.kill();
            cgroup.renew();
            server = start(world, &cgroup, RESTARTED_WITHIN);
        }
        pinned(&mut guard, &server);
        assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
    });
}

#[test]
fn the_hold_ends_with_the_last_process_and_then_the_owner_decides() {
    test(|world| {
        let cgroup = Cgroup::new();
        let server = world.probe_in(&cgroup, &["server", "127.0.0.1:3001"]);
        let mut guard = world.guard();
        pinned(&mut guard, &server);
        held(&mut guard, &cgroup);
        server.kill();
        guard.ask_until("status", |status| status["namespaces"][0]["holders"] == json!({}));
        let elsewhere = Cgroup::new();
        let _impostor = world.probe_in(&elsewhere, &["server", "127.0.0.1:3001"]);
        guard.ask_until("status", |status| {
            status["namespaces"][0]["ports"]["3001"]["unrecognised"]
                .as_array()
                .is_some_and(|list| !list.is_empty())
        });
        assert_eq!(guard.ask("dial 3001")["kind"], "NotConnected");
    });
}

#[test]
fn a_dead_guards_hold_ends_by_itself_and_the_port_stays_closed() {
    test(|world| {
        let cgroup = Cgroup::new();
        let server = world.probe_in(&cgroup, &["server", "127.0.0.1:3001"]);
        let mut guard = world.guard();
        pinned(&mut guard, &server);
        held(&mut guard, &cgroup);
        guard.kill();
        server.kill();
        cgroup.renew();
        let words = world.probe_in_outcome(&cgroup, &["server", "127.0.0.1:3001"]).expect_err("still held");
        assert!(words.contains(REFUSED), "{words}");
        let _server = start(world, &cgroup, Duration::from_secs(30));
        let met = world.client(&world.host, "127.0.0.1".parse().expect("an address"));
        assert_eq!(met["refused"], true, "{met}");
    });
}

#[test]
fn a_server_in_the_root_cgroup_holds_nothing_and_status_says_so() {
    test(|world| {
        let server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        let status = pinned(&mut guard, &server);
        let words = status["namespaces"][0]["holders"]["3001"].as_str().expect("words");
        assert!(words.contains("root cgroup"), "{words}");
    });
}

/// Starts the server as soon as it may bind.
fn start(world: &World, cgroup: &Cgroup, within: Duration) -> Process {
    let end = Instant::now() + within;
    loop {
        match world.probe_in_outcome(cgroup, &["server", "127.0.0.1:3001"]) {
            Ok(server) => return server,
            Err(words) => assert!(Instant::now() < end && words.contains(REFUSED), "{words}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
