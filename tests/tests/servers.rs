//! Which listening socket counts as the protected server.

use std::net::TcpStream;

use guard_tests::world::{NOBODY, Process, World, test};
use serde_json::{Value, json};

const OTHER_USER: u32 = 65_533;

fn pinned_pid(status: &Value) -> Option<u64> {
    status["namespaces"][0]["ports"]["3001"]["pinned"][0]["pid"].as_u64()
}

fn wait_for_server(guard: &mut Process, server: &Process) {
    guard.ask_until("status", |status| pinned_pid(status) == Some(server.pid().into()));
}

fn dial_kind(guard: &mut Process) -> Value {
    guard.ask("dial 3001")["kind"].clone()
}

#[test]
fn a_server_may_start_after_the_guard() {
    test(|world| {
        let mut guard = world.guard();
        assert_eq!(dial_kind(&mut guard), "NotConnected");
        let server = world.server(&["0.0.0.0:3001"]);
        wait_for_server(&mut guard, &server);
        assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
        let pinned = guard.ask("status")["namespaces"][0]["ports"]["3001"]["pinned"][0].clone();
        assert_eq!((&pinned["uid"], &pinned["comm"]), (&json!(NOBODY), &json!("steer-probe")));
    });
}

#[test]
fn a_restarted_server_is_pinned_again() {
    test(|world| {
        let server = world.server(&["127.0.0.1:3001", "[::1]:3001"]);
        let mut guard = world.guard();
        wait_for_server(&mut guard, &server);
        server.kill();
        guard.ask_until("status", |status| pinned_pid(status).is_none());
        assert_eq!(dial_kind(&mut guard), "NotConnected");
        let server = world.server(&["127.0.0.1:3001", "[::1]:3001"]);
        wait_for_server(&mut guard, &server);
        assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
    });
}

#[test]
fn the_guards_connections_do_not_keep_a_server_from_its_port() {
    test(|world| {
        let mut guard = world.guard();
        let connect =
            |ip: &str| world.host.run(|| TcpStream::connect((ip, 3001)).expect("steered to the guard"));
        let open = [connect("127.0.0.1"), connect("::1")];
        let server = world.server(&["127.0.0.1:3001", "[::1]:3001"]);
        wait_for_server(&mut guard, &server);
        drop(open);
    });
}

#[test]
fn another_users_listener_is_not_pinned_in_the_servers_place() {
    test(|world| {
        let server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        wait_for_server(&mut guard, &server);
        server.kill();
        let impostor = world.server_as(OTHER_USER, &["0.0.0.0:3001"]);
        let status = guard.ask_until("status", |status| {
            status["namespaces"][0]["ports"]["3001"]["unrecognised"]
                .as_array()
                .is_some_and(|list| !list.is_empty())
        });
        assert_eq!(pinned_pid(&status), None, "{status:#}");
        let words = status["namespaces"][0]["ports"]["3001"]["unrecognised"][0].as_str().expect("words");
        assert!(words.contains("uid 65533") && words.contains("unload"), "{words}");
        assert_eq!(dial_kind(&mut guard), "NotConnected");
        // Not after a new start of the guard either.
        guard.kill();
        let mut guard = world.guard();
        assert_eq!(dial_kind(&mut guard), "NotConnected");
        drop(impostor);
        let server = world.server(&["0.0.0.0:3001"]);
        wait_for_server(&mut guard, &server);
        assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
    });
}

#[test]
fn a_more_specific_listener_of_the_same_user_does_not_get_the_guards_connections() {
    test(|world| {
        let here = "127.0.0.1".parse().expect("an address");
        let server = world.server_kind("shared", NOBODY, &["0.0.0.0:3001"]);
        let shadow = world.server_kind("shadow", NOBODY, &["127.0.0.1:3001"]);
        assert_eq!(world.client(&world.host, here)["shadow"], true, "without a guard the shadow wins");
        drop(shadow);
        let mut guard = world.guard();
        wait_for_server(&mut guard, &server);
        let _shadow = world.server_kind("shadow", NOBODY, &["127.0.0.1:3001"]);
        for _ in 0..20 {
            assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
        }
        assert_eq!(world.client(&world.host, here)["guard"], true);
    });
}

#[test]
fn with_two_owners_from_the_start_none_is_taken() {
    test(|world| {
        let _one = world.server(&["127.0.0.1:3001"]);
        let _two = world.server_as(OTHER_USER, &["127.0.0.2:3001"]);
        let mut guard = world.guard();
        let status = guard.ask("status");
        assert_eq!(pinned_pid(&status), None);
        assert!(
            status["namespaces"][0]["ports"]["3001"]["unrecognised"].to_string().contains("several owners"),
            "{status:#}"
        );
        assert_eq!(dial_kind(&mut guard), "NotConnected");
    });
}

#[test]
fn a_listener_on_one_address_is_reached_there() {
    test(|world: &World| {
        for bind in ["10.77.0.1:3001", "[fd77::1]:3001", "[::1]:3001", "[::ffff:127.0.0.1]:3001"] {
            let server = world.server(&[bind]);
            let mut guard = world.guard();
            wait_for_server(&mut guard, &server);
            assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}), "bound to {bind}");
        }
    });
}

#[test]
fn a_client_that_holds_every_port_does_not_keep_the_guard_from_its_server() {
    test(|world| {
        let server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        wait_for_server(&mut guard, &server);
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        world.host.run(|| std::fs::write(range, "40000 40031").expect("a setting"));
        let held: Vec<TcpStream> = world
            .host
            .run(|| std::iter::from_fn(|| TcpStream::connect(("127.0.0.1", 3001)).ok()).take(100).collect());
        assert!((1..=32).contains(&held.len()), "{} connections", held.len());
        assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
        assert_eq!(guard.ask("status")["counters"]["own"], 1);
    });
}
