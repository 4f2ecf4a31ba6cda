//! Guards that follow each other under load: by hand-over nobody is refused, by a kill everybody is until the next one
//! serves, and in neither case does anybody reach the server but the guard.
//!
//! `MCP_GUARD_TIMES` says how often; `cargo xtask upgrades` and `cargo xtask kills` set it and show the figures.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use guard_tests::https::Request;
use guard_tests::process::{START_LIMIT, eventually, program};
use guard_tests::scene::{ADDRESS, POLICY, Scene, apart, call, done_for, guard};
use guard_tests::slice::Slice;
use guard_tests::world::Process;
use serde_json::json;

/// How often, unless the variable says otherwise.
const TIMES: usize = 3;
const CLIENTS: usize = 2;

fn times() -> usize {
    std::env::var("MCP_GUARD_TIMES").ok().and_then(|times| times.parse().ok()).unwrap_or(TIMES)
}

/// What clients met that did nothing but connect.
#[derive(Debug, Default)]
struct Met {
    connected: AtomicUsize,
    /// By kind of error.
    failed: Mutex<BTreeMap<String, usize>>,
    /// The longest time in a row in which connections failed.
    closed: Mutex<Vec<Duration>>,
}

/// Connects without a break until it is over.
fn connect_all_the_time(met: &Met, over: &AtomicBool) {
    let mut closed_since: Option<Instant> = None;
    while !over.load(Ordering::Relaxed) {
        match TcpStream::connect_timeout(&ADDRESS, Duration::from_secs(30)) {
            Ok(mut stream) => {
                met.connected.fetch_add(1, Ordering::Relaxed);
                if let Some(since) = closed_since.take() {
                    met.closed.lock().unwrap().push(since.elapsed());
                }
                // The server would greet nobody either; it must never have seen this one.
                stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                let _nothing = stream.read(&mut [0; 1]);
            }
            Err(error) => {
                closed_since.get_or_insert_with(Instant::now);
                *met.failed.lock().unwrap().entry(format!("{:?}", error.kind())).or_default() += 1;
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Runs `change` so often under load; returns what the clients met and how long each change took.
fn under_load(scene: &mut Scene, change: impl Fn(&mut Scene)) -> (Met, Vec<Duration>) {
    let (met, over) = (Met::default(), AtomicBool::new(false));
    let mut took = Vec::new();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| connect_all_the_time(&met, &over));
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..times() {
                let start = Instant::now();
                change(scene);
                took.push(start.elapsed());
                thread::sleep(Duration::from_millis(100));
            }
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    (met, took)
}

fn answering(limits: &serde_json::Value) -> (Scene, std::sync::Arc<AtomicUsize>) {
    let mut scene = Scene::new(limits).unwrap();
    let elsewhere = guard_tests::puppet::Puppet::at(([127, 0, 0, 1], 1).into()).unwrap();
    let reached = std::mem::replace(&mut scene.puppet, elsewhere).answer_all(done_for);
    (scene, reached)
}

#[test]
fn upgrades_under_load_refuse_nobody() {
    apart(|| {
        let (mut scene, _reached) = answering(&json!({"drain_seconds": 2}));
        let (met, took) = under_load(&mut scene, |scene| {
            scene.daemon.upgrade().unwrap();
            // The new one serves, with the same credentials and the same trail.
            let answer = scene.https.ask(&Request::post(&call(1, "open")).by(&scene.credential)).unwrap();
            assert_eq!(answer.status, 200);
        });
        let failed = met.failed.lock().unwrap().clone();
        println!(
            "{} upgrades of {:?} on average, {} connections, failed: {failed:?}",
            took.len(),
            took.iter().sum::<Duration>() / u32::try_from(took.len()).unwrap(),
            met.connected.load(Ordering::Relaxed),
        );
        assert!(failed.is_empty(), "{failed:?}");
        assert!(met.connected.load(Ordering::Relaxed) > 10 * took.len());
        scene.daemon.stop().unwrap();
        assert_eq!(scene.daemon.verify().unwrap().code, Some(0));
        let output = scene.daemon.output("audit reconcile", &["--json"]).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    });
}

#[test]
fn kills_under_load_let_nobody_through() {
    apart(|| {
        let (mut scene, reached) = answering(&json!({}));
        let (met, took) = under_load(&mut scene, |scene| {
            scene.daemon.kill().unwrap();
            scene.daemon.start().unwrap();
        });
        let failed = met.failed.lock().unwrap().clone();
        let closed = met.closed.lock().unwrap().clone();
        println!(
            "{} kills, {} connections, failed: {failed:?}, closed for {:?} at most",
            took.len(),
            met.connected.load(Ordering::Relaxed),
            closed.iter().max(),
        );
        let allowed =
            [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset].map(|kind| format!("{kind:?}"));
        assert!(failed.keys().all(|kind| allowed.contains(kind)), "{failed:?}");
        assert!(!failed.is_empty() && closed.len() >= took.len(), "each kill was noticed");
        assert_eq!(reached.load(Ordering::SeqCst), 0, "nobody asked the server anything");
        let counters = scene.daemon.status().unwrap()["kernel"]["counters"].clone();
        assert!(counters["refused_no_guard"].as_u64().unwrap() > 0, "{counters}");
        scene.daemon.stop().unwrap();
        assert_eq!(scene.daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn a_new_guard_with_a_mistake_leaves_the_old_one_serving() {
    apart(|| {
        let (mut scene, _reached) = answering(&json!({}));
        let before = scene.daemon.pid();
        scene.daemon.write_policy("policy.yaml", "nonsense").unwrap();
        let words = scene.daemon.upgrade().unwrap_err().to_string();
        assert!(words.contains("policy.yaml"), "{words}");
        assert_eq!(scene.daemon.pid(), before);
        assert_eq!(scene.daemon.status().unwrap()["kernel"]["protected"], true);
        let answer = scene.https.ask(&Request::post(&call(1, "open")).by(&scene.credential)).unwrap();
        assert_eq!(answer.status, 200);
    });
}

#[test]
fn a_new_guard_that_could_not_go_on_does_not_ask_the_old_one_to_go() {
    apart(|| {
        let (mut scene, _reached) = answering(&json!({}));
        let (before, good) = (scene.daemon.pid(), scene.daemon.config.clone());
        let blocked = scene.daemon.dir().join("no-folder");
        std::fs::write(&blocked, "a file").unwrap();
        let try_with = |scene: &mut Scene, words: &str| {
            scene.daemon.write_config().unwrap();
            let said = scene.daemon.upgrade().unwrap_err().to_string();
            assert!(said.contains(words), "{words}: {said}");
            assert_eq!(scene.daemon.pid(), before);
            let answer = scene.https.ask(&Request::post(&call(1, "open")).by(&scene.credential)).unwrap();
            assert_eq!(answer.status, 200, "{words}");
            assert_eq!(scene.daemon.status().unwrap()["kernel"]["protected"], true, "{words}");
            scene.daemon.config = good.clone();
            scene.daemon.write_config().unwrap();
        };
        scene.daemon.config.audit.dir = Some(blocked);
        try_with(&mut scene, "cannot open the audit trail");
        scene.daemon.config.kernel.pins = format!("{}-other", good.kernel.pins);
        try_with(&mut scene, "does not hold the pins");
        let taken = guard_tests::cgroup::Cgroup::new();
        let mut stranger = taken.command(0, "/bin/sleep".as_ref()).arg("600").spawn().unwrap();
        scene.daemon.config.kernel.cgroup = taken
            .path()
            .strip_prefix(guard_tests::world::cgroup2_root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        try_with(&mut scene, "other processes are in the guard's cgroup");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        scene.daemon.config.servers[0].egress =
            Some(serde_json::from_value(json!({"default": "deny"})).unwrap());
        try_with(&mut scene, "runs in the root cgroup");
        scene.daemon.upgrade().unwrap();
        assert_ne!(scene.daemon.pid(), before);
    });
}

#[test]
fn what_waits_at_one_door_of_a_server_is_not_taken_for_what_came_in_by_another() {
    apart(|| {
        let slice = Slice::new();
        let mut command = std::process::Command::new(program("steer-probe").unwrap());
        command.args(["worker", "127.0.0.1:3001"]);
        slice.put("demo.service", &mut command);
        let mut server = Process::start(&mut command).unwrap();
        let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
        daemon.config.servers[0].other_ports = mcp_guard::config::OtherPorts::Protect;
        daemon.start().unwrap();
        assert_eq!(server.ask("listen 127.0.0.1:3002")["done"], true);
        let other = std::net::SocketAddr::from(([127, 0, 0, 1], 3002));
        let open = eventually(START_LIMIT, || Ok(TcpStream::connect(other).is_ok().then_some(())));
        assert!(open.unwrap().is_some(), "the second door is served");
        for _ in 0..7 {
            drop(TcpStream::connect(other).unwrap());
        }
        daemon.upgrade().unwrap();
        for _ in 0..3 {
            drop(TcpStream::connect(ADDRESS).unwrap());
        }
        daemon.stop().unwrap();
        let output = daemon.output("audit reconcile", &["--json"]).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        drop(server);
        daemon.unload().unwrap();
    });
}

#[test]
fn an_older_guard_takes_a_newer_ones_pins_over_only_if_it_is_told_to() {
    apart(|| {
        let (mut scene, _reached) = answering(&json!({}));
        let kernel = &scene.daemon.config.kernel;
        let pin = kernel.bpffs.join(&kernel.pins).join("maps/META");
        let meta = || -> Array<MapData, [u64; 3]> {
            Map::Array(MapData::from_pin(&pin).expect("the pinned map")).try_into().expect("its layout")
        };
        let mut words = meta().get(&0, 0).unwrap();
        words[2] = 9 << 32;
        meta().set(0, words, 0).unwrap();

        let refused = scene.daemon.upgrade().unwrap_err().to_string();
        assert!(refused.contains("mcp-guard 9.0.0") && refused.contains("--allow-downgrade"), "{refused}");
        assert_eq!(scene.daemon.status().unwrap()["kernel"]["protected"], true, "the newer one goes on");
        scene.daemon.kill().unwrap();
        assert!(scene.daemon.start().is_err());
        assert_eq!(TcpStream::connect(ADDRESS).unwrap_err().kind(), ErrorKind::ConnectionRefused);

        scene.daemon.start_by("run --allow-downgrade", START_LIMIT).unwrap();
        assert_ne!(meta().get(&0, 0).unwrap()[2], 9 << 32);
    });
}
