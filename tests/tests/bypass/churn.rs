//! Many short connections, whose numbers are used again, and many while guards come and go.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use guard_tests::probe::connect;
use guard_tests::process::eventually;
use guard_tests::world::{HOST_V4, PORT, World, test};

use crate::field::wait_for_server;

/// Connections of the guard to its server, in CI; `cargo xtask churn --connections` sets another number.
const CONNECTIONS: u64 = 3_000;
const CONNECTIONS_VARIABLE: &str = "GUARD_CHURN_CONNECTIONS";
/// The guards that take over from one another under the flood.
const SWAPS: usize = 5;
/// A refusal takes microseconds; without a pause, clients would leave no time for anybody else.
const REFUSED_PAUSE: Duration = Duration::from_millis(1);

fn entries(world: &World, map: &str, key: usize) -> usize {
    let data = MapData::from_pin(world.pins().join("maps").join(map)).expect("the pinned map");
    let map = Map::HashMap(data);
    match key {
        48 => HashMap::<_, [u8; 48], u64>::try_from(map)
            .expect("the layout of the map")
            .keys()
            .flatten()
            .count(),
        _ => HashMap::<_, u64, u32>::try_from(map).expect("the layout of the map").keys().flatten().count(),
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_permission_is_left_after_many_short_connections() {
    let count =
        std::env::var(CONNECTIONS_VARIABLE).map_or(CONNECTIONS, |text| text.parse().expect("a number"));
    test(|world| {
        let server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        wait_for_server(&mut guard, &server);
        // Few ports, which may be taken again after a millisecond.
        world.host.sysctl("ipv4/tcp_tw_reuse", "1");
        world.host.sysctl("ipv4/tcp_tw_reuse_delay", "1");
        world.host.sysctl("ipv4/ip_local_port_range", "40000 40499");
        let stop = AtomicBool::new(false);
        let others = AtomicU64::new(0);
        let start = Instant::now();
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| {
                // Clients whose numbers are taken from the same few.
                world.host.run(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let met = connect(SocketAddr::new("127.0.0.1".parse().expect("an address"), PORT));
                        assert_ne!(met["server"], true, "{met}");
                        others.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
            for number in 0..count {
                let met = guard.ask("dial 3001");
                assert_eq!(met["answer"], "server", "connection {number}: {met}");
            }
        });
        let took = start.elapsed();
        let gone =
            eventually(Duration::from_secs(10), || Ok((entries(world, "FLOWS", 48) == 0).then_some(())));
        assert!(gone.expect("no error").is_some(), "{} flows are left", entries(world, "FLOWS", 48));
        assert_eq!(entries(world, "OWN", 8), 0, "a socket stays registered");
        let counters = guard.ask("status")["counters"].clone();
        assert_eq!(
            counters["own"].as_u64(),
            Some(count),
            "only the guard's connections reached the server: {counters}"
        );
        assert_eq!(counters["flows_full"], 0, "{counters}");
        println!(
            "churn: {count} connections of the guard and {} of others in {:.1} s",
            others.load(Ordering::Relaxed),
            took.as_secs_f64()
        );
    });
}

#[test]
fn a_flood_meets_no_server_while_guards_come_and_go() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001", "[::1]:3001"]);
        world.guard().kill();
        let stop = AtomicBool::new(false);
        let (guarded, refused, open) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            for (netns, ip) in [
                (&world.host, "127.0.0.1"),
                (&world.host, "::1"),
                (&world.remote, HOST_V4),
                (&world.remote, HOST_V4),
            ] {
                let (stop, guarded, refused, open) = (&stop, &guarded, &refused, &open);
                let address = SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), PORT);
                scope.spawn(move || {
                    netns.run(|| {
                        while !stop.load(Ordering::Relaxed) {
                            let met = connect(address);
                            for (key, counter) in [("guard", guarded), ("refused", refused), ("server", open)]
                            {
                                counter.fetch_add(u64::from(met[key] == true), Ordering::Relaxed);
                            }
                            if met["guard"] != true {
                                thread::sleep(REFUSED_PAUSE);
                            }
                        }
                    });
                });
            }
            // Connections that nobody speaks on, as many as one thread can make.
            let (stop, host) = (&stop, &world.host);
            scope.spawn(move || {
                host.run(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);
                        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
                            thread::sleep(REFUSED_PAUSE);
                        }
                    }
                });
            });
            for _ in 0..SWAPS {
                let start = Instant::now();
                let mut guard = world.guard();
                let started = start.elapsed();
                let before = guarded.load(Ordering::Relaxed);
                while guarded.load(Ordering::Relaxed) < before + 50 {
                    thread::sleep(Duration::from_millis(5));
                }
                assert_eq!(guard.ask("dial 3001")["answer"], "server");
                println!("flood: started in {started:?}, 50 answers after {:?}", start.elapsed());
                guard.kill();
            }
        });
        let [guarded, refused, open] = [guarded, refused, open].map(AtomicU64::into_inner);
        println!("flood: {guarded} at a guard, {refused} refused, {open} at the server");
        assert_eq!(open, 0, "connections reached the server while guards came and went");
        assert!(refused > 0, "no moment without a guard was met");
    });
}
