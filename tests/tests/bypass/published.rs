//! Ports that a container publishes on its host, as Docker and Podman do it: address translation and a relay.

use guard_tests::bypass::{Attacker, Jail, assert_stopped, met};
use guard_tests::world::{HOST_V4, PORT, World, test};
use serde_json::json;

const RULES: &str = "add table ip published; \
    add chain ip published in { type nat hook prerouting priority dstnat; }; \
    add rule ip published in fib daddr type local tcp dport 8080 dnat to 172.30.0.2:3001; \
    add chain ip published out { type nat hook output priority -100; }; \
    add rule ip published out fib daddr type local tcp dport 8080 dnat to 172.30.0.2:3001; \
    add chain ip published after { type nat hook postrouting priority srcnat; }; \
    add rule ip published after ip saddr 172.30.0.0/24 oifname != br0 masquerade; \
    add rule ip published after ip saddr 127.0.0.0/8 oifname br0 masquerade; \
    add rule ip published after ip saddr 172.30.0.2 ip daddr 172.30.0.2 masquerade";

/// Two containers on a bridge of the host. The first one's port 3001 is the host's 8080 by translation, and its 8081 by a
/// relay.
struct Published {
    one: Jail,
    two: Jail,
    relay: guard_tests::world::Process,
}

impl Published {
    fn new(world: &World) -> Self {
        let host = &world.host;
        host.ip("link add br0 type bridge");
        host.ip("addr add 172.30.0.1/24 dev br0");
        host.ip("link set br0 up");
        let (one, two) = (Jail::new(), Jail::new());
        for (number, jail) in [(2, &one), (3, &two)] {
            host.ip(&format!(
                "link add b{number} type veth peer name eth0 netns {}",
                jail.netns.path().display()
            ));
            host.ip(&format!("link set b{number} master br0 up"));
            // A bridge that netfilter looks into sends nothing back where it came from, unless it is told to.
            host.ip(&format!("link set b{number} type bridge_slave hairpin on"));
            jail.netns.ip(&format!("addr add 172.30.0.{number}/24 dev eth0"));
            jail.netns.ip("link set eth0 up");
            jail.netns.ip("route add default via 172.30.0.1");
        }
        host.sysctl("ipv4/ip_forward", "1");
        host.sysctl("ipv4/conf/br0/route_localnet", "1");
        world.remote.ip(&format!("route add 172.30.0.0/24 via {HOST_V4}"));
        let engine = Attacker::new(world, "the container engine", host, 0);
        let done = engine.run(&["tool", "nft", RULES]);
        assert_eq!(done["done"], true, "{done}");
        let relay = engine.start(&["relay", "0.0.0.0:8081", "172.30.0.2:3001"]);
        Self { one, two, relay }
    }

    /// Every way to the server, from everywhere.
    fn ways(&self, world: &World) -> Vec<(&'static str, Attacker, &'static str)> {
        let mut ways = Vec::new();
        for (how, targets) in [
            ("translated", ["127.0.0.1:8080", "10.77.0.1:8080", "172.30.0.1:8080"]),
            ("relayed", ["127.0.0.1:8081", "10.77.0.1:8081", "172.30.0.1:8081"]),
        ] {
            for target in targets {
                ways.push((how, Attacker::local(world), target));
            }
            ways.push((how, Attacker::remote(world), targets[1]));
            for target in &targets[1..] {
                ways.push((how, self.two.user(world), target));
                ways.push((how, self.two.root(world), target));
                // The container's own port, by way of its host.
                ways.push(("there and back", self.one.user(world), target));
            }
        }
        let own = "172.30.0.2:3001";
        ways.push(("directly", Attacker::local(world), own));
        ways.push(("directly", Attacker::remote(world), own));
        ways.push(("directly", self.two.user(world), own));
        ways.push(("inside", self.one.user(world), own));
        ways.push(("inside", self.one.root(world), "127.0.0.1:3001"));
        ways
    }
}

#[test]
fn a_published_port_leads_to_the_guard_however_it_is_published() {
    test(|world| {
        let published = Published::new(world);
        let _server = world.server_in(&published.one.netns, &["0.0.0.0:3001"]);
        let ways = published.ways(world);
        let local = Attacker::local(world).name;
        for (how, from, target) in &ways {
            assert_eq!(met(how, from, &["connect", target])["server"], true, "{how} from {}", from.name);
        }
        let place = json!({"netns": published.one.netns.path()});
        let guard = world.guard_for(&json!([{"name": "demo", "port": PORT, "in": place}]));
        for (how, from, target) in &ways {
            let met = met(how, from, &["connect", target]);
            assert_eq!(
                (&met["guard"], &met["server"]),
                (&json!(true), &json!("demo")),
                "{how} from {}: {met}",
                from.name
            );
            // Whatever the way, it is the address in the container that the guard sees.
            let own = met["original_dst"].as_str().is_some_and(|own| own.ends_with(":3001"));
            assert!(own, "{met}");
            // A process of the host is named, the relay in place of whoever asked it. Of a translated connection the
            // kernel's record has other numbers.
            let named = &met["origin"]["neighbour"];
            let is_relayed = target.ends_with(":8081");
            if is_relayed {
                assert_eq!(named["pid"], published.relay.pid(), "{how} from {}: {met}", from.name);
            } else if *how == "directly" && from.name == local {
                assert_eq!(named["comm"], "attacker", "{met}");
            } else {
                assert_eq!(*named, json!(null), "{how} from {}: {met}", from.name);
            }
        }
        guard.kill();
        for (how, from, target) in &ways {
            assert_stopped(how, from, &["connect", target]);
        }
    });
}
