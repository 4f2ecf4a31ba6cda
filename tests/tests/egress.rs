//! Where a locked server may connect, and what becomes of other ports that it listens on.

use guard_common::CGROUP_DEPTH_MAX;
use guard_tests::cgroup::Cgroup;
use guard_tests::locked::{destinations, pinned, reaches};
use guard_tests::probe::connect;
use guard_tests::world::{HOST_V4, NOBODY, Process, World, test};
use serde_json::{Value, json};

const HERE: &str = "127.0.0.1:4001";
const HERE_V6: &str = "[::1]:4001";
const MAPPED: &str = "[::ffff:127.0.0.1]:4001";
const OWN: &str = "10.77.0.1:4001";
const FAR: &str = "10.77.0.2:4003";
const FAR_V6: &str = "[fd77::2]:4003";
const ALL: [&str; 6] = [HERE, HERE_V6, MAPPED, OWN, FAR, FAR_V6];

fn guard(world: &World, entry: &Value) -> Process {
    outcome(world, entry).expect("a guard")
}

fn outcome(world: &World, entry: &Value) -> Result<Process, String> {
    world.guard_where(|config| {
        for (key, value) in entry.as_object().expect("keys") {
            config["servers"][0][key] = value.clone();
        }
    })
}

#[test]
fn without_a_lock_a_server_connects_wherever_it_likes() {
    test(|world| {
        destinations(world);
        let cgroup = Cgroup::new();
        let mut server = world.probe_in(&cgroup, &["worker", "127.0.0.1:3001"]);
        let mut guard = guard(world, &json!({}));
        let status = pinned(&mut guard, &server);
        assert_eq!(status["locks"], json!([]), "{status:#}");
        for address in ALL {
            assert!(reaches(&mut server, address), "{address}");
        }
        assert_eq!(server.ask(&format!("send {FAR}")), json!({"done": true}));
    });
}

#[test]
fn a_closed_server_reaches_its_exceptions_and_nothing_else() {
    test(|world| {
        destinations(world);
        let cgroup = Cgroup::new();
        let mut server = world.probe_in(&cgroup, &["worker", "127.0.0.1:3001"]);
        let except = json!(["localhost:4001", "10.77.0.0/24:4003", "[fd77::/64]:80"]);
        let mut guard = guard(world, &json!({"egress": {"default": "deny", "except": except}}));
        pinned(&mut guard, &server);
        guard.ask_until("status", |status| status["locks"][0]["cgroup"] == json!(cgroup.path()));
        let expected = [(HERE, true), (MAPPED, true), (OWN, false), (FAR, true), (FAR_V6, false)];
        for (address, reached) in expected {
            assert_eq!(reaches(&mut server, address), reached, "{address}");
        }
        // Another process of the same user, outside, meets no lock.
        assert_eq!(world.host.run(|| connect(OWN.parse().expect("an address")))["server"], true);
        for address in ["10.77.0.2:53", "[fd77::2]:53"] {
            let told = server.ask(&format!("send {address}"));
            assert!(told["error"].to_string().contains("Operation not permitted"), "{address}: {told}");
        }
        assert_eq!(server.ask(&format!("send {FAR}")), json!({"done": true}), "datagrams have ports too");
        let lock = guard.ask("status")["locks"][0].clone();
        assert_eq!((&lock["connects"], &lock["sends"]), (&json!(2), &json!(2)), "{lock}");
        assert_eq!(lock["server"], "demo");
        let told = guard.ask_until("denied", |told| told.as_array().is_some_and(|told| told.len() == 4));
        let first = &told[0];
        assert_eq!((&first["reason"], &first["address"]), (&json!("connect"), &json!(OWN)), "{first:#}");
        assert_eq!((&first["pid"], &first["uid"]), (&json!(server.pid()), &json!(NOBODY)), "{first:#}");
        assert_eq!(told[3]["reason"], "send");
        // The guard is served as ever: answers are no calls of the server's own.
        assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
    });
}

#[test]
fn an_open_server_is_kept_from_its_exceptions() {
    test(|world| {
        destinations(world);
        let cgroup = Cgroup::new();
        let mut server = world.probe_in(&cgroup, &["worker", "127.0.0.1:3001"]);
        let except = json!(["10.77.0.0/24:*", "[::/0]:4003"]);
        let mut guard = guard(world, &json!({"egress": {"default": "allow", "except": except}}));
        pinned(&mut guard, &server);
        guard.ask_until("status", |status| status["locks"][0]["cgroup"] == json!(cgroup.path()));
        for (address, reached) in
            [(HERE, true), (HERE_V6, true), (MAPPED, true), (OWN, false), (FAR, false), (FAR_V6, false)]
        {
            assert_eq!(reaches(&mut server, address), reached, "{address}");
        }
    });
}

#[test]
fn a_connection_from_before_the_lock_is_cut_and_the_lock_outlives_the_guard() {
    test(|world| {
        destinations(world);
        let cgroup = Cgroup::new();
        let mut server = world.probe_in(&cgroup, &["worker", "127.0.0.1:3001"]);
        assert_eq!(server.ask(&format!("open {FAR}")), json!({"done": true}));
        assert_eq!(server.ask("echo"), json!({"done": true}), "without a lock");
        let entry = json!({"egress": {"default": "deny"}});
        let mut first = guard(world, &entry);
        pinned(&mut first, &server);
        let status = first.ask_until("status", |status| status["locks"] != json!([]));
        assert_eq!(status["lock_problems"], json!([]), "{status:#}");
        assert_ne!(server.ask("echo"), json!({"done": true}), "cut");
        assert!(first.ask("status")["locks"][0]["packets"].as_u64() > Some(0));
        first.kill();
        assert!(!reaches(&mut server, FAR), "the guard is dead, the lock is not");
        let mut second = guard(world, &entry);
        pinned(&mut second, &server);
        assert!(!reaches(&mut server, FAR));
        second.kill();
        // An entry that allows more takes the place of the one before.
        let mut third = guard(world, &json!({"egress": {"default": "deny", "except": [FAR]}}));
        pinned(&mut third, &server);
        third.ask_until("status", |status| status["locks"][0]["destinations"] == 1);
        assert!(reaches(&mut server, FAR));
    });
}

#[test]
fn the_next_guard_takes_the_lock_over_with_no_moment_of_freedom_and_frees_who_is_not_to_be_locked() {
    test(|world| {
        destinations(world);
        let cgroup = Cgroup::new();
        let mut server = world.probe_in(&cgroup, &["worker", "127.0.0.1:3001"]);
        let entry = json!({"egress": {"default": "deny"}});
        let mut first = guard(world, &entry);
        pinned(&mut first, &server);
        first.ask_until("status", |status| status["locks"] != json!([]));
        first.kill();
        let mut tries = 0;
        let second = std::thread::scope(|scope| {
            let start = scope.spawn(|| guard(world, &entry));
            while !start.is_finished() {
                assert!(!reaches(&mut server, FAR), "after {tries} refusals");
                tries += 1;
            }
            start.join().expect("a guard")
        });
        assert!(tries > 10, "{tries} tries");
        assert!(!reaches(&mut server, FAR));
        second.kill();
        let mut third = guard(world, &json!({}));
        pinned(&mut third, &server);
        third.ask_until("status", |status| status["locks"] == json!([]));
        assert!(reaches(&mut server, FAR));
    });
}

#[test]
fn a_server_in_the_root_cgroup_cannot_be_locked_in() {
    test(|world| {
        let _server = world.server(&["127.0.0.1:3001"]);
        let words = outcome(world, &json!({"egress": {"default": "deny"}})).expect_err("the whole host");
        assert!(words.contains("root cgroup") && words.contains("systemd-run"), "{words}");
        // Nothing is left of that start.
        drop(guard(world, &json!({})));
    });
}

#[test]
fn a_server_deeper_than_the_programs_look_cannot_be_locked_in() {
    test(|world| {
        let mut cgroups = vec![Cgroup::new()];
        while cgroups.len() <= CGROUP_DEPTH_MAX as usize {
            let next = cgroups.last().expect("there is one").child("deeper");
            cgroups.push(next);
        }
        let [.., deepest, too_deep] = cgroups.as_slice() else { panic!("two at least") };
        let entry = json!({"egress": {"default": "deny"}});
        {
            let _server = world.probe_in(too_deep, &["worker", "127.0.0.1:3001"]);
            let words = outcome(world, &entry).expect_err("a lock that holds nothing");
            assert!(words.contains("17 levels") && words.contains("systemd-run"), "{words}");
        }
        {
            // It comes while a guard runs.
            let mut guard = guard(world, &entry);
            let _server = world.probe_in(too_deep, &["worker", "127.0.0.1:3001"]);
            let is_told = |status: &Value| status["lock_problems"].to_string().contains("17 levels");
            guard.ask_until("status", is_told);
            guard.kill();
        }
        world.unload();
        {
            destinations(world);
            let mut server = world.probe_in(deepest, &["worker", "127.0.0.1:3001"]);
            let mut guard = guard(world, &entry);
            pinned(&mut guard, &server);
            guard.ask_until("status", |status| status["locks"] != json!([]));
            assert!(!reaches(&mut server, FAR), "one level less is locked in");
        }
        while cgroups.pop().is_some() {}
    });
}

#[test]
fn another_port_of_a_server_is_open_protected_or_closed_as_its_entry_says() {
    for (policy, meets) in [("report", "server"), ("protect", "guard"), ("deny", "refused")] {
        test(|world| {
            let cgroup = Cgroup::new();
            // One from before the guard, one from after it.
            let mut server = world.probe_in(&cgroup, &["worker", "127.0.0.1:3001", "0.0.0.0:3005"]);
            let mut guard = guard(world, &json!({"other_ports": policy}));
            pinned(&mut guard, &server);
            assert_eq!(server.ask("listen 0.0.0.0:3006"), json!({"done": true}));
            let at = |netns: &guard_tests::world::Netns, address: &str| {
                let address = address.parse().expect("an address");
                netns.run(|| connect(address))
            };
            if policy == "deny" {
                // Closed by the kernel itself, before the guard has heard of it.
                assert_eq!(at(&world.host, "127.0.0.1:3006")["refused"], true);
            }
            let status = guard.ask_until("status", |status| {
                status["other_ports"].as_array().is_some_and(|others| others.len() == 2)
            });
            assert_eq!(status["other_ports"][0]["done"], policy, "{status:#}");
            if policy == "protect" {
                guard.ask_until("status", |status| {
                    let servers = &status["namespaces"][0]["servers"];
                    servers["3005"] == "demo" && servers["3006"] == "demo"
                });
            }
            for port in [3005, 3006] {
                for (netns, ip) in [(&world.host, "127.0.0.1"), (&world.remote, HOST_V4)] {
                    let met = at(netns, &format!("{ip}:{port}"));
                    assert_eq!(met[meets], true, "{policy}, {ip}:{port}: {met}");
                }
            }
            // A listener that nobody watches is nobody's business.
            let elsewhere = Cgroup::new();
            let _other = world.probe_in(&elsewhere, &["server", "0.0.0.0:3007"]);
            assert_eq!(at(&world.host, "127.0.0.1:3007")["server"], true);
            if policy == "protect" {
                assert_eq!(guard.ask("dial 3005"), json!({"answer": "server"}));
            }
        });
    }
}

#[test]
fn other_ports_that_a_guard_protected_are_never_open_while_the_next_one_starts() {
    test(|world| {
        let cgroup = Cgroup::new();
        let mut server = world.probe_in(&cgroup, &["worker", "127.0.0.1:3001", "0.0.0.0:3005"]);
        let entry = json!({"other_ports": "protect"});
        let mut first = guard(world, &entry);
        pinned(&mut first, &server);
        first.ask_until("status", |status| status["namespaces"][0]["servers"]["3005"] == "demo");
        first.kill();
        let mut tries = 0;
        let mut second = std::thread::scope(|scope| {
            let start = scope.spawn(|| guard(world, &entry));
            while !start.is_finished() {
                let met = world.host.run(|| connect("127.0.0.1:3005".parse().expect("an address")));
                assert_ne!(met["server"], true, "after {tries} tries");
                tries += 1;
            }
            start.join().expect("a guard")
        });
        assert!(tries > 10, "{tries} tries");
        second.ask_until("status", |status| status["namespaces"][0]["servers"]["3005"] == "demo");
        assert_eq!(server.ask("connect 127.0.0.1:3005")["guard"], true);
    });
}
