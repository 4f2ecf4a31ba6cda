//! Rows 12, 13, 15, 22 and 25: packets that no socket sends, rules that bend the way, other links; and a server in a
//! container, attacked from inside.

use guard_tests::bypass::{Attacker, Jail, assert_guarded, assert_reaches, assert_stopped};
use guard_tests::cgroup::Cgroup;
use guard_tests::world::{HOST_V4, NOBODY, Netns, PORT, Process, World, test};
use serde_json::{Value, json};

use crate::field::{Field, connect, field, words};

/// A guard for the server in the container.
fn guard_of(world: &World, jail: &Jail) -> Process {
    world.guard_for(&json!([{"name": "demo", "port": PORT, "in": {"netns": jail.netns.path()}}]))
}

fn nft(from: &Attacker, rules: &str) {
    let met = from.run(&["tool", "nft", rules]);
    assert_eq!(met["done"], true, "nft from {}: {met}", from.name);
}

#[test]
fn row_12_crafted_packets_from_outside() {
    field(|field| {
        let Field { world, jail } = field;
        let crafted = |target: &str, device: &str, source: &str, how: &[&str]| -> Vec<String> {
            let first = ["crafted", target, device, source];
            first.iter().chain(how).map(|word| (*word).to_owned()).collect()
        };
        let mut attacks = Vec::new();
        let ways: [(&str, &[&str]); 4] = [
            ("12 raw IP", &[]),
            ("12 packet socket", &["via"]),
            ("12 fragments", &["fragments"]),
            ("12 fragments by a packet socket", &["via", "fragments"]),
        ];
        for (number, (row, how)) in ways.into_iter().enumerate() {
            for (from, target, device, own, via) in [
                (Attacker::remote(world), "10.77.0.1:3001", "device=mg1", "10.77.0.2", "via=10.77.0.1"),
                (jail.root(world), "10.78.0.1:3001", "device=jail1", "10.78.0.2", "via=10.78.0.1"),
            ] {
                let how: Vec<&str> = how.iter().map(|word| if *word == "via" { via } else { word }).collect();
                attacks.push((
                    row,
                    from,
                    crafted(target, device, &format!("from={own}:{}", 41_000 + number), &how),
                ));
            }
        }
        field.attack(&attacks);
    });
}

#[test]
fn rows_12_and_13_from_inside_the_container() {
    test(|world| {
        let jail = Jail::linked(&world.host, "10.78.0");
        let _server = world.server_in(&jail.netns, &["0.0.0.0:3001", "[::1]:3001"]);
        let (user, root) = (jail.user(world), jail.root(world));
        let host = Attacker::local(world);
        // Rules that lead other ports to the server, on the way in, on the way out, and past the port.
        nft(
            &root,
            "add table ip bend; \
             add chain ip bend in { type nat hook prerouting priority dstnat; }; \
             add rule ip bend in tcp dport 9001 redirect to :3001; \
             add rule ip bend in tcp dport 9002 dnat to 10.78.0.2:3001; \
             add chain ip bend out { type nat hook output priority -100; }; \
             add rule ip bend out tcp dport 9003 redirect to :3001; \
             add rule ip bend out tcp dport 9004 dnat to 127.0.0.1:3001",
        );
        let attacks: Vec<(&str, &Attacker, Vec<String>)> = vec![
            ("1 inside", &user, connect("127.0.0.1:3001", &[])),
            ("1 inside", &root, connect("127.0.0.1:3001", &[])),
            ("1 inside", &user, connect("[::1]:3001", &[])),
            ("1 inside", &root, connect("127.0.0.1:3001", &["mark=7", "transparent"])),
            (
                "12 inside",
                &root,
                words_of(&["crafted", "127.0.0.1:3001", "device=lo", "from=127.0.0.1:42000"]),
            ),
            (
                "12 inside",
                &root,
                words_of(&["crafted", "10.78.0.2:3001", "device=lo", "from=10.78.0.2:42001"]),
            ),
            ("13 redirect", &host, connect("10.78.0.2:9001", &[])),
            ("13 dnat", &host, connect("10.78.0.2:9002", &[])),
            ("13 redirect out", &user, connect("127.0.0.1:9003", &[])),
            ("13 dnat out", &root, connect("127.0.0.1:9004", &[])),
        ];
        for (row, from, attack) in &attacks {
            assert_reaches(row, from, &words(attack));
        }
        let mut guard = guard_of(world, &jail);
        for (row, from, attack) in &attacks {
            assert_guarded(row, from, &words(attack));
        }
        let claims = guard.ask("prove");
        assert!(
            claims.as_array().expect("a list").iter().all(|claim| claim["holds"] == true),
            "25: {claims:#}"
        );
    });
}

fn words_of(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn row_13_transparent_proxy_rules() {
    test(|world| {
        let jail = Jail::linked(&world.host, "10.78.0");
        // An ordinary server: the rule looks for a listener on the port, which must be transparent for its own sake.
        let _server = world.server_in(&jail.netns, &["0.0.0.0:3001"]);
        nft(
            &jail.root(world),
            "add table ip bend; add chain ip bend in { type filter hook prerouting priority mangle; }; \
             add rule ip bend in tcp dport 9005 tproxy to :3001; \
             add rule ip bend in tcp dport 9006 tproxy to 127.0.0.1:3001 accept",
        );
        let from = Attacker::local(world);
        let guard = guard_of(world, &jail);
        for target in ["10.78.0.2:9005", "10.78.0.2:9006"] {
            assert_stopped("13 tproxy", &from, &["connect", target]);
        }
        assert_guarded("13 tproxy", &from, &["connect", "10.78.0.2:3001"]);
        drop(guard);
    });
}

#[test]
fn row_15_other_links() {
    test(|world| {
        // A bridge with two containers, and a second address on the neighbour's link (macvlan).
        let (one, two) = (Jail::new(), Jail::new());
        world.host.ip("link add br0 type bridge");
        world.host.ip("addr add 10.79.0.1/24 dev br0");
        world.host.ip("link set br0 up");
        for (number, jail) in [(2, &one), (3, &two)] {
            let netns = jail.netns.path();
            world.host.ip(&format!("link add b{number} type veth peer name eth0 netns {}", netns.display()));
            world.host.ip(&format!("link set b{number} master br0 up"));
            jail.netns.ip(&format!("addr add 10.79.0.{number}/24 dev eth0"));
            jail.netns.ip("link set eth0 up");
        }
        let far = Netns::new();
        world.remote.ip(&format!(
            "link add link mg1 name mv0 netns {} type macvlan mode bridge",
            far.path().display()
        ));
        far.ip("addr add 10.77.0.3/24 dev mv0");
        far.ip("link set mv0 up");

        let _host = world.server(&["0.0.0.0:3001"]);
        let _boxed = world.server_in(&one.netns, &["0.0.0.0:3001"]);
        let attacks = [
            ("15 bridge, to the host", two.user(world), connect("10.79.0.1:3001", &[])),
            ("15 bridge, to the container", two.user(world), connect("10.79.0.2:3001", &[])),
            ("15 bridge, to the container", two.root(world), connect("10.79.0.2:3001", &[])),
            ("15 bridge, from the host", Attacker::local(world), connect("10.79.0.2:3001", &[])),
            (
                "15 macvlan",
                Attacker::new(world, "a second address of another host", &far, 0),
                connect("10.77.0.1:3001", &[]),
            ),
        ];
        for (row, from, attack) in &attacks {
            assert_reaches(row, from, &words(attack));
        }
        let _guard = world.guard_for(&json!([
            {"name": "demo", "port": PORT},
            {"name": "boxed", "port": PORT, "in": {"netns": one.netns.path()}},
        ]));
        for (row, from, attack) in &attacks {
            let met = guard_tests::bypass::met(row, from, &words(attack));
            assert_eq!(met["guard"], true, "{row} from {}: {met}", from.name);
        }
    });
}

#[test]
fn row_22_sources_and_targets_that_belong_to_the_host() {
    field(|field| {
        let Field { world, .. } = field;
        let server = world.server(&["0.0.0.0:3001"]);
        let from = Attacker::remote(world);
        let attack = |target: &str, source: &str| {
            ["crafted", target, "device=mg1", source, "via=10.77.0.1"].map(str::to_owned).to_vec()
        };
        let row = "22 martians";
        let martians = [
            attack("127.0.0.1:3001", "from=10.77.0.2:43000"),
            attack("10.77.0.1:3001", "from=127.0.0.1:43001"),
            attack("10.77.0.1:3001", "from=10.77.0.1:43002"),
            // The address of the container's bridge, from another link.
            attack("10.77.0.1:3001", "from=10.78.0.1:43003"),
        ];
        // As hosts are: nothing of it gets anywhere, with or without a guard.
        for martian in &martians {
            assert_stopped(row, &from, &words(martian));
        }
        // A host that routes loopback lets its neighbours in, which is the attack.
        world.host.sysctl("ipv4/conf/all/route_localnet", "1");
        assert_reaches(row, &from, &words(&martians[0]));
        let guard = world.guard();
        let met = assert_guarded(row, &from, &words(&attack("127.0.0.1:3001", "from=10.77.0.2:43004")));
        assert_eq!(met["origin"], "remote", "a neighbour does not pass for this host: {met}");
        for martian in &martians[1..] {
            assert_stopped(row, &from, &words(martian));
        }
        drop((server, guard));
    });
}

fn container_id(number: u128) -> String {
    format!("{:064x}", u128::from(std::process::id()) << 64 | 0x800 | number)
}

/// What the guard says of listeners on the port that are not the server.
fn strangers(status: &Value) -> String {
    status["namespaces"][0]["ports"]["3001"]["unrecognised"].to_string()
}

#[test]
fn row_8_who_is_in_the_containers_network_and_not_in_the_container_is_not_its_server() {
    test(|world| {
        let id = container_id(1);
        let cgroup = Cgroup::named(&format!("docker-{id}.scope"));
        let jail = Jail::new();
        // As `nsenter`, a sidecar of another container, or a debugger.
        let mut idle =
            world.probe_inside(&jail.netns, &cgroup, &["worker"]).expect("a process of the container");
        let stranger = world.server_in(&jail.netns, &["0.0.0.0:3001"]);
        assert_reaches(
            "8 stranger",
            &Attacker::local(world).in_netns(&jail.netns),
            &["connect", "127.0.0.1:3001"],
        );
        let mut guard = world.guard_for(&json!([{"name": "demo", "port": PORT, "in": {"container": id}}]));
        let status = guard.ask_until("status", |status| strangers(status).contains("not in container"));
        assert_eq!(status["namespaces"][0]["ports"]["3001"]["pinned"], json!([]), "{status:#}");
        assert_eq!(guard.ask("dial 3001")["kind"], "NotConnected");
        drop(stranger);
        // The first of the container is the server.
        assert_eq!(idle.ask("listen 0.0.0.0:3001"), json!({"done": true}));
        guard.ask_until("dial 3001", |met| met["answer"] == "server");
    });
}

#[test]
fn row_8_a_user_who_calls_his_cgroup_a_container_or_unit_has_none() {
    test(|world| {
        let (id, unit) = (container_id(2), format!("mg-crm-{}.service", std::process::id()));
        let home = Cgroup::new();
        std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY)).expect("the user's own");
        let false_ones = [home.child(&format!("docker-{id}.scope")), home.child(&unit)];
        let (one, two) = (Netns::new(), Netns::new());
        let addresses = [["server", "0.0.0.0:3001"], ["server", "0.0.0.0:3002"]];
        let servers: Vec<Process> = [&one, &two]
            .iter()
            .zip(&false_ones)
            .zip(&addresses)
            .map(|((netns, cgroup), words)| world.probe_inside(netns, cgroup, words).expect("a server"))
            .collect();
        let mut guard = world.guard_for(&json!([
            {"name": "boxed", "port": PORT, "in": {"container": id}},
            {"name": "crm", "port": PORT + 1, "in": {"unit": unit}},
        ]));
        let (boxed, crm) = (Netns::new(), Netns::new());
        let true_ones = [Cgroup::named(&format!("docker-{id}.scope")), Cgroup::named(&unit)];
        let _boxed = world.probe_inside(&boxed, &true_ones[0], &addresses[0]).expect("the container");
        let _crm = world.probe_inside(&crm, &true_ones[1], &addresses[1]).expect("the unit");
        let status = guard
            .ask_until("status", |status| status["namespaces"].as_array().is_some_and(|all| all.len() == 2));
        world.note(&status);
        for (netns, port, word) in [
            (&boxed, PORT, "guard"),
            (&crm, PORT + 1, "guard"),
            (&one, PORT, "server"),
            (&two, PORT + 1, "server"),
        ] {
            let met = netns.run(|| guard_tests::probe::connect(([127, 0, 0, 1], port).into()));
            assert_eq!(met[word], true, "{port}: {met}");
        }
        drop(servers);
        drop(false_ones);
    });
}

#[test]
fn a_container_reaches_the_host_and_not_around_it() {
    test(|world| {
        let jail = Jail::linked(&world.host, "10.78.0");
        let _server = world.server_in(&jail.netns, &["10.78.0.2:3001"]);
        world.host.sysctl("ipv4/ip_forward", "1");
        world.remote.ip(&format!("route add 10.78.0.0/24 via {HOST_V4}"));
        let from = [Attacker::local(world), Attacker::remote(world), jail.user(world), jail.root(world)];
        for from in &from {
            assert_reaches("15 routed", from, &["connect", "10.78.0.2:3001"]);
        }
        let guard = guard_of(world, &jail);
        for from in &from {
            assert_guarded("15 routed", from, &["connect", "10.78.0.2:3001"]);
        }
        guard.kill();
        for from in &from {
            let met = assert_stopped("19 killed", from, &["connect", "10.78.0.2:3001"]);
            assert_eq!(met["refused"], true, "{met}");
        }
    });
}
