//! A whole restart by a service manager: what one guard leaves in its store is what the next one goes on with, and nothing else is.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use guard_tests::https::Request;
use guard_tests::manager::{Manager, Stored};
use guard_tests::probe::{assert_ended, connect};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, POLICY, Scene, apart, call, done_for};
use serde_json::json;

const RESTARTS: usize = 3;
const LIMIT: Duration = Duration::from_secs(30);

fn scene(manager: &Manager) -> Scene {
    let mut scene = Scene::with(&json!({"drain_seconds": 1}), |daemon| {
        daemon.environment.extend([manager.variable()]);
        Ok(())
    })
    .unwrap();
    let elsewhere = Puppet::at(([127, 0, 0, 1], 1).into()).unwrap();
    std::mem::replace(&mut scene.puppet, elsewhere).answer_all(done_for);
    scene
}

/// SIGTERM, as at `systemctl restart`; returns what the manager keeps meanwhile.
fn stop(scene: &mut Scene, manager: &mut Manager) -> Vec<Stored> {
    manager.listen().unwrap();
    manager.stored.clear();
    scene.daemon.stop().unwrap();
    manager.listen().unwrap();
    std::mem::take(&mut manager.stored)
}

fn start(scene: &mut Scene, kept: &[Stored]) {
    scene.daemon.start_through(|command| Manager::pass(&command, kept)).unwrap();
}

#[test]
fn a_restart_by_the_manager_refuses_nobody_and_forgets_what_was_kept() {
    apart(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = Manager::new(dir.path()).unwrap();
        let mut scene = scene(&manager);
        let (over, connected, failed) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    match TcpStream::connect_timeout(&ADDRESS, LIMIT) {
                        Ok(_) => drop(connected.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failed.lock().unwrap().push(error.kind()),
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for _ in 0..RESTARTS {
                    let mut kept = stop(&mut scene, &mut manager);
                    assert!(kept.len() >= 2, "one listener for each family");
                    // They are told by what they are.
                    kept.reverse();
                    let seen = manager.told.len();
                    start(&mut scene, &kept);
                    for one in &kept {
                        manager.wait_for(&format!("FDNAME={}", one.name), seen, LIMIT).unwrap();
                    }
                    let removals = manager.told[seen..].iter().filter(|(_, line)| line == "FDSTOREREMOVE=1");
                    assert_eq!(removals.count(), kept.len());
                    drop(kept);
                    let answer = scene.https.ask(&Request::post(&call(1, "open")).by(&scene.credential));
                    assert_eq!(answer.unwrap().status, 200);
                }
            }));
            over.store(true, Ordering::Relaxed);
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        });
        assert_eq!(*failed.lock().unwrap(), [], "of {}", connected.load(Ordering::Relaxed));
        assert!(connected.load(Ordering::Relaxed) > 10 * RESTARTS);
        stop(&mut scene, &mut manager);
        assert_eq!(scene.daemon.verify().unwrap().code, Some(0));
        let output = scene.daemon.output("audit reconcile", &["--json"]).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    });
}

#[test]
fn a_crash_after_a_restart_leaves_nothing_with_which_clients_would_wait() {
    apart(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = Manager::new(dir.path()).unwrap();
        let mut scene = scene(&manager);
        let kept = stop(&mut scene, &mut manager);
        start(&mut scene, &kept);
        drop(kept);
        scene.daemon.kill().unwrap();
        assert_eq!(connect(ADDRESS)["refused"], true);
        assert!(!scene.daemon.config.runtime_dir.join("handover.json").exists());
    });
}

#[test]
fn descriptors_that_are_not_the_guards_listeners_are_closed_with_words() {
    apart(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = Manager::new(dir.path()).unwrap();
        let mut scene = scene(&manager);
        let mut kept = stop(&mut scene, &mut manager);
        let named = |name: &str, fd: OwnedFd| Stored { name: name.into(), fd };
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = stranger.local_addr().unwrap();
        kept.insert(0, named("mcp-guard-0", stranger.into()));
        kept.insert(0, named("mcp-guard-7", File::open("/proc/self/status").unwrap().into()));
        kept.insert(1, named("other.socket", TcpListener::bind("127.0.0.1:0").unwrap().into()));
        // The manager makes two processes wait for one another otherwise.
        start(&mut scene, &kept);
        drop(kept);
        let log = scene.daemon.log().unwrap();
        for words in [
            "a descriptor that was handed on is closed: it is no socket",
            &format!("a listener on {address} that was handed on is none of the guard before"),
            "the service manager passed a descriptor that is not the guard's",
        ] {
            assert!(log.contains(words), "no {words:?} in: {log}");
        }
        assert!(TcpStream::connect(address).is_err(), "nobody keeps the stranger");
        assert_eq!(scene.daemon.status().unwrap()["kernel"]["protected"], true);
        assert!(log.contains("the kernel programs are the same as those of the guard before"), "{log}");
    });
}

#[test]
fn listeners_without_a_manifest_or_without_all_of_a_family_are_an_ordinary_start() {
    apart(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = Manager::new(dir.path()).unwrap();
        let mut scene = scene(&manager);
        let mut kept = stop(&mut scene, &mut manager);
        kept.truncate(1);
        start(&mut scene, &kept);
        assert!(scene.daemon.log().unwrap().contains("was announced and did not come"));
        let kept = stop(&mut scene, &mut manager);
        std::fs::remove_file(scene.daemon.config.runtime_dir.join("handover.json")).unwrap();
        start(&mut scene, &kept);
        assert!(scene.daemon.log().unwrap().contains("does not say whose"));
        assert_eq!(scene.daemon.status().unwrap()["kernel"]["protected"], true);
    });
}

#[test]
fn what_was_kept_before_an_unload_does_not_count_as_swept() {
    apart(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut manager = Manager::new(dir.path()).unwrap();
        let mut scene = scene(&manager);
        let kept = stop(&mut scene, &mut manager);
        scene.daemon.unload().unwrap();
        // The port is open, and this one is the server's.
        let open = eventually(START_LIMIT, || Ok(TcpStream::connect(ADDRESS).ok()));
        let mut direct = open.unwrap().expect("the port is open");
        start(&mut scene, &kept);
        assert!(scene.daemon.log().unwrap().contains("are of other pins than those that are there"));
        assert_ended(&mut direct);
    });
}

#[test]
fn a_start_that_fails_after_a_boot_leaves_no_port_open() {
    apart(|| {
        let mut scene = Scene::new(&json!({})).unwrap();
        let good = scene.daemon.config.tls.clone();
        let (policy, missing) = ("policy.yaml", scene.daemon.dir().join("missing.pem"));
        // The last one fails when the trail is open already.
        for (what, said) in [("policies", "policy.yaml"), ("tls", "missing.pem"), ("egress", "root cgroup")] {
            scene.daemon.stop().unwrap();
            scene.daemon.unload().unwrap();
            assert!(TcpStream::connect(ADDRESS).is_ok(), "{what}: nothing is in the kernel");
            match what {
                "policies" => scene.daemon.write_policy(policy, "policies: none").unwrap(),
                "tls" => {
                    let tls = json!({"certificate": missing, "key": missing});
                    scene.daemon.config.tls = serde_json::from_value(tls).unwrap();
                }
                _ => {
                    let egress = json!({"default": "deny"});
                    scene.daemon.config.servers[0].egress = serde_json::from_value(egress).unwrap();
                }
            }
            let error = scene.daemon.start().expect_err("a mistake").to_string();
            assert!(error.contains(said) && error.contains("are CLOSED"), "{error}");
            let closed = TcpStream::connect(ADDRESS).expect_err("closed").kind();
            assert_eq!(closed, ErrorKind::ConnectionRefused, "{what}");
            // Once it is mended, the guard goes on with what is there.
            scene.daemon.write_policy(policy, POLICY).unwrap();
            scene.daemon.config.tls = good.clone();
            scene.daemon.config.servers[0].egress = None;
            scene.daemon.start().unwrap();
        }
    });
}
