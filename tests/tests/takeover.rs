//! What a protected port does while the guard is dead, and when the next one takes over.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData};
use guard_tests::probe::connect;
use guard_tests::world::{HOST_V4, HOST_V6, PORT, World, test};
use serde_json::{Value, json};

/// A refusal takes no longer than this; the promise is about the kernel, so the best of some attempts counts.
const REFUSED_WITHIN_MILLISECONDS: u64 = 100;

fn address(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), PORT)
}

/// Entries of the guard's map of upstream flows.
fn flows(world: &World) -> usize {
    let data = MapData::from_pin(world.pins().join("maps/FLOWS")).expect("the pinned map");
    let flows: HashMap<_, [u8; 48], u64> = Map::HashMap(data).try_into().expect("the layout of ABI 1");
    flows.keys().flatten().count()
}

/// Ends the threads of a test also when it fails; otherwise it would wait for them for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_killed_guard_leaves_the_port_refused_at_once() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001", "[::]:3002"]);
        let guard = world.guard();
        guard.kill();
        for (netns, ip) in [
            (&world.host, "127.0.0.1"),
            (&world.host, "::1"),
            (&world.host, "::ffff:127.0.0.1"),
            (&world.remote, HOST_V4),
            (&world.remote, HOST_V6),
        ] {
            let attempts: Vec<Value> = netns.run(|| (0..5).map(|_| connect(address(ip))).collect());
            for met in &attempts {
                assert_eq!(met["refused"], true, "{ip}: {met}");
            }
            let best =
                attempts.iter().filter_map(|met| met["milliseconds"].as_u64()).min().expect("five attempts");
            assert!(best <= REFUSED_WITHIN_MILLISECONDS, "{ip}: refused after {best} ms");
        }
    });
}

#[test]
fn the_next_guard_takes_over_and_the_port_is_never_open() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001"]);
        let guard = world.guard();
        let stop = AtomicBool::new(false);
        let met: Mutex<Vec<Value>> = Mutex::default();
        thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            for (netns, ip) in [(&world.host, "127.0.0.1"), (&world.remote, HOST_V4)] {
                let (stop, met) = (&stop, &met);
                scope.spawn(move || {
                    netns.run(|| {
                        while !stop.load(Ordering::Relaxed) {
                            let now = connect(address(ip));
                            met.lock().expect("no panic").push(now);
                            thread::sleep(Duration::from_millis(1));
                        }
                    });
                });
            }
            let count =
                |key: &str| met.lock().expect("no panic").iter().filter(|met| met[key] == true).count();
            wait_until("the first guard answers", || count("guard") > 10);
            guard.kill();
            let refused = count("refused");
            wait_until("the port is refused", || count("refused") > refused + 10);
            let mut guard = world.guard();
            let served = count("guard");
            wait_until("the second guard answers", || count("guard") > served + 10);
            assert_eq!(guard.ask("status")["generation"], 2);
            assert_eq!(
                guard.ask("dial 3001"),
                json!({"answer": "server"}),
                "the guard itself reaches the server"
            );
            let claims = guard.ask("prove");
            assert!(
                claims.as_array().expect("a list").iter().all(|claim| claim["holds"] == true),
                "{claims:#}"
            );
        });
        let met = met.into_inner().expect("no panic");
        let open: Vec<_> = met.iter().filter(|met| met["server"] == true).collect();
        assert!(open.is_empty(), "{} of {} connections reached the server: {open:?}", open.len(), met.len());
    });
}

#[test]
fn a_second_guard_on_the_same_pins_is_refused() {
    test(|world| {
        let mut guard = world.guard();
        let words = world.guard_outcome().expect_err("the pins are locked");
        assert!(words.contains("another guard is running"), "{words}");
        let error = mcp_guard::kernel::unload(&world.kernel).expect_err("the pins are locked").to_string();
        assert!(error.contains("another guard is running"), "{error}");
        assert_eq!(
            guard.ask("prove").as_array().map(|claims| claims.iter().all(|claim| claim["holds"] == true)),
            Some(true)
        );
    });
}

#[test]
fn pins_of_another_layout_are_refused_and_stay_closed() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001"]);
        world.guard().kill();
        let meta = || -> Array<MapData, [u32; 6]> {
            let data = MapData::from_pin(world.pins().join("maps/META")).expect("the pinned map");
            Map::Array(data).try_into().expect("six words")
        };
        let mut words = meta().get(&0, 0).expect("the entry");
        words[0] = 9999;
        meta().set(0, words, 0).expect("written");
        let said = world.guard_outcome().expect_err("another layout");
        assert!(said.contains("map layout 9999") && said.contains("mcp-guard unload"), "{said}");
        let met = world.host.run(|| connect(address("127.0.0.1")));
        assert_eq!(met["refused"], true, "{met}");
    });
}

#[test]
fn pins_of_another_network_are_refused_and_stay_closed() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001"]);
        world.guard().kill();
        let said = world.guard_in_outcome(&world.remote).expect_err("another namespace");
        assert!(said.contains("another network namespace"), "{said}");
        assert_eq!(world.host.run(|| connect(address("127.0.0.1")))["refused"], true);
    });
}

#[test]
fn a_guard_killed_with_live_upstreams_leaves_no_flow() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        for held in 1..=20 {
            assert_eq!(guard.ask("hold 3001"), json!({"held": held}));
        }
        assert_eq!(flows(world), 20, "live flows are recorded");
        guard.kill();
        wait_until("no flow is left", || flows(world) == 0);
    });
}

#[test]
fn a_closed_upstream_leaves_no_flow() {
    test(|world| {
        let _server = world.server(&["[::]:3001"]);
        let mut guard = world.guard();
        for _ in 0..20 {
            assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
        }
        wait_until("no flow is left", || flows(world) == 0);
        assert_eq!(guard.ask("status")["counters"]["own"], 20);
    });
}

#[test]
fn a_connection_to_the_killed_guard_ends() {
    test(|world| {
        let guard = world.guard();
        let mut stream = world.remote.run(|| TcpStream::connect((HOST_V4, PORT)).expect("steered"));
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
        assert!(stream.read(&mut [0; 512]).expect("the answer") > 0);
        guard.kill();
        let ended = stream.write_all(b"y").and_then(|()| stream.read(&mut [0; 8]));
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    });
}
