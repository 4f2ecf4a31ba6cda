//! Rows 7, 18, 19 and 20: what the guard holds and what holds it, against those who would take it.

use guard_tests::bypass::{Attacker, Jail, assert_stopped, met};
use guard_tests::world::{NOBODY, World, test};
use serde_json::json;

use crate::field::wait_for_server;

/// Everybody without root on the host.
fn powerless(world: &World, jail: &Jail) -> [Attacker; 3] {
    // The container's root, in the host's network namespace: as a container with `--network host` has it.
    let inside = jail.root(world).in_netns(&world.host);
    [Attacker::local(world), jail.root(world), inside]
}

#[test]
fn row_7_joining_the_guards_listener() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        let status = guard.ask("status");
        let listeners: Vec<String> = status["namespaces"][0]["listeners"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|address| address.as_str().expect("an address").to_owned())
            .collect();
        assert_eq!(listeners.len(), 2);
        for uid in [NOBODY, 0] {
            for listener in &listeners {
                let any = listener.replace("127.0.0.1", "0.0.0.0").replace("[::1]", "[::]");
                for address in [listener, &any] {
                    let thief = world.server_kind_outcome("shadow", uid, &[address]);
                    println!("7 join: uid {uid} at {address}: {thief:?}");
                    assert!(thief.is_err(), "uid {uid} listens at {address} beside the guard");
                }
            }
        }
    });
}

#[test]
fn row_18_taking_a_connection_out_of_the_guard() {
    test(|world| {
        let jail = Jail::new();
        let server = world.server(&["0.0.0.0:3001"]);
        // Without a guard: an agent's connection, taken by another process of its user.
        let user = Attacker::local(world);
        let victim = user.start(&["keep", "127.0.0.1:3001"]);
        let taken = met("18 theft", &user, &["steal", &victim.pid().to_string()]);
        assert_eq!((&taken["server"], &taken["ptrace"]), (&json!(true), &json!(true)), "no attack: {taken}");
        drop(victim);

        let mut guard = world.guard();
        wait_for_server(&mut guard, &server);
        assert_eq!(guard.ask("hold 3001"), json!({"held": 1}), "there is a connection to take");
        let pid = guard.pid().to_string();
        for from in powerless(world, &jail) {
            let taken = assert_stopped("18 theft", &from, &["steal", &pid]);
            for power in ["ptrace", "memory", "links", "signal"] {
                assert_eq!(taken[power], false, "{power} from {}: {taken}", from.name);
            }
            assert_eq!(taken["descriptors"], 0, "{}: {taken}", from.name);
        }
    });
}

#[test]
fn row_20_pulling_the_guard_out_of_the_kernel() {
    test(|world| {
        let jail = Jail::new();
        let _server = world.server(&["0.0.0.0:3001"]);
        let user = Attacker::local(world);
        let guard = world.guard();
        let pins = world.pins();
        let attack = ["unpin", pins.to_str().expect("a path")];
        for from in powerless(world, &jail) {
            let done = assert_stopped("20 unpin", &from, &attack);
            assert_eq!(done["done"], json!([]), "{}", from.name);
        }
        guard.kill();
        for from in powerless(world, &jail) {
            let done = assert_stopped("20 unpin", &from, &attack);
            assert_eq!(done["done"], json!([]), "{}, a dead guard", from.name);
        }
        assert_eq!(user.run(&["connect", "127.0.0.1:3001"])["refused"], true);
        // The line: root of the host may, and then the port is open.
        let root = Attacker::new(world, "root of the host", &world.host, 0);
        let done = met("20 unpin", &root, &attack);
        assert!(done["done"].as_array().is_some_and(|done| done.len() >= 6), "{done}");
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while user.run(&["connect", "127.0.0.1:3001"])["server"] != true {
            assert!(std::time::Instant::now() < end, "root's attack does not work, so it proves nothing");
        }
    });
}
