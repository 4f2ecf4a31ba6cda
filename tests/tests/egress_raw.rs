//! What leaves a locked server by other ways than ordinary sockets, tried as root of a container in the server's cgroup.

use std::sync::atomic::{AtomicU32, Ordering};

use guard_tests::bypass::leave::Sniffer;
use guard_tests::bypass::{Attacker, Jail};
use guard_tests::cgroup::Cgroup;
use guard_tests::world::{World, test};
use serde_json::{Value, json};

/// Each way for the families in which there is one: (way, IPv4, IPv6).
const WAYS: [(&str, bool, bool); 14] = [
    ("udp", true, true),
    ("udp-connected", true, true),
    ("udp-options", false, true),
    ("raw", true, true),
    ("raw-udp", true, true),
    ("raw-connected", true, true),
    ("icmp", true, true),
    ("ping", true, true),
    ("crafted", true, true),
    ("crafted-tcp", true, true),
    ("crafted-fragment", true, true),
    ("crafted-options", false, true),
    ("crafted-many-options", false, true),
    ("packet", true, false),
];
/// Past every hook that this kernel has for the sockets of a cgroup.
const OPEN: &str = "packet";

/// A server in a jail and in a cgroup; its destinations are the other end of the jail's link.
struct Field {
    jail: Jail,
    cgroup: Cgroup,
    sniffer: Sniffer,
    tries: AtomicU32,
}

const V4: &str = "10.78.0.1";
const V6: &str = "[fd78::1]";

impl Field {
    fn new(world: &World) -> Self {
        let jail = Jail::linked(&world.host, "10.78.0");
        jail.netns.sysctl("ipv4/ping_group_range", "0 200000");
        Self {
            jail,
            cgroup: Cgroup::new(),
            sniffer: Sniffer::in_netns(&world.host),
            tries: AtomicU32::new(0),
        }
    }

    fn entry(&self, egress: &Value) -> Value {
        json!([{"name": "demo", "port": 3001, "in": {"netns": self.jail.netns.path()}, "egress": egress}])
    }

    /// Whether the way led to port `port` of the other end, and what the attacker met.
    fn leaves(&self, from: &Attacker, way: &str, ip: &str, port: u16) -> (bool, Value) {
        // A number of its own: the other end's complaints quote what they are about.
        let number = self.tries.fetch_add(1, Ordering::Relaxed);
        let (mark, fence) = (format!("mark-{number}-"), format!("fence-{number}-"));
        let (target, allowed) = (format!("{ip}:{port}"), format!("{ip}:4001"));
        let met = from.run(&["leave", way, &target, &mark, &allowed, &fence]);
        let seen = self.sniffer.saw(&mark, &fence);
        println!("{way} to {target} from {}: seen {seen}, {met}", from.name);
        (seen, met)
    }
}

fn each_way(mut tried: impl FnMut(&str, &str)) {
    for (way, v4, v6) in WAYS {
        for ip in [(v4, V4), (v6, V6)].into_iter().filter_map(|(there, ip)| there.then_some(ip)) {
            tried(way, ip);
        }
    }
}

#[test]
fn nothing_leaves_a_closed_server_but_by_a_packet_socket() {
    test(|world| {
        let field = Field::new(world);
        let root = field.jail.root(world).in_cgroup(&field.cgroup);
        each_way(|way, ip| assert!(field.leaves(&root, way, ip, 4002).0, "{way}, {ip}: no attack"));

        let _server = world
            .probe_inside(&field.jail.netns, &field.cgroup, &["worker", "0.0.0.0:3001"])
            .expect("a server");
        let egress = json!({"default": "deny", "except": ["10.78.0.1:4001", "[fd78::1]:4001"]});
        let mut guard = world.guard_for(&field.entry(&egress));
        guard.ask_until("status", |status| status["locks"][0]["cgroup"] == json!(field.cgroup.path()));

        let mut closed = 0;
        each_way(|way, ip| {
            let (seen, met) = field.leaves(&root, way, ip, 4002);
            assert_eq!(seen, way == OPEN, "{way}, {ip}: {met}");
            closed += u64::from(way != OPEN);
        });
        let lock = guard.ask("status")["locks"][0].clone();
        let count = |what: &str| lock[what].as_u64().expect("a count");
        assert!(count("connects") + count("sends") + count("packets") >= closed, "{closed} tries: {lock}");
        assert!(count("packets") > 0, "{lock}");

        // What is made by hand and allowed leaves: it was the destination that counted.
        for way in ["crafted", "crafted-tcp", "raw-udp"] {
            for ip in [V4, V6] {
                assert!(field.leaves(&root, way, ip, 4001).0, "{way}, {ip}");
            }
        }
        assert!(field.leaves(&root, "crafted-options", V6, 4001).0);
        // Without the capability there is no such socket.
        let user = field.jail.user(world).in_cgroup(&field.cgroup);
        for way in [OPEN, "raw", "crafted"] {
            let (seen, met) = field.leaves(&user, way, V4, 4002);
            assert!(!seen && met["error"].to_string().contains("Operation not permitted"), "{way}: {met}");
        }
        // Who could open one is told of.
        assert_eq!(guard.ask("status")["lock_problems"], json!([]));
        let mut sleeper = field.cgroup.command(0, "/bin/sleep".as_ref());
        let mut sleeper = sleeper.arg("3600").spawn().expect("a process of root");
        let is_told = |status: &Value| {
            let told = status["lock_problems"].to_string();
            told.contains(&format!("pid {} has CAP_NET_RAW", sleeper.id()))
        };
        guard.ask_until("status", is_told);
        sleeper.kill().expect("a child");
        sleeper.wait().expect("a child");
        // Another process of the same jail is nobody's business.
        assert!(field.leaves(&field.jail.root(world), "crafted", V4, 4002).0);
    });
}

#[test]
fn a_rule_of_the_container_that_turns_packets_elsewhere_does_not_open_the_lock() {
    test(|world| {
        let field = Field::new(world);
        let root = field.jail.root(world).in_cgroup(&field.cgroup);
        let rules = "add table ip turn; add chain ip turn out { type nat hook output priority -100; }; \
                     add rule ip turn out udp dport 4005 dnat to 10.78.0.1:4002";
        assert_eq!(root.run(&["tool", "nft", rules])["done"], true);
        assert!(field.leaves(&root, "udp", V4, 4005).0, "no attack");

        let _server = world
            .probe_inside(&field.jail.netns, &field.cgroup, &["worker", "0.0.0.0:3001"])
            .expect("a server");
        let egress = json!({"default": "deny", "except": ["10.78.0.1:4001", "10.78.0.1:4005"]});
        let mut guard = world.guard_for(&field.entry(&egress));
        guard.ask_until("status", |status| status["locks"] != json!([]));
        assert!(!field.leaves(&root, "udp", V4, 4005).0, "it would go to port 4002");
        assert_eq!(root.run(&["tool", "nft", "delete table ip turn"])["done"], true);
        assert!(field.leaves(&root, "udp", V4, 4005).0, "where it says that it goes, it may");
    });
}
